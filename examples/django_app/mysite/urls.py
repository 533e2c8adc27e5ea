from django.urls import path
from tales import views

urlpatterns = [
    path("tales/", views.submit_tale),
    path("tales/<str:job_id>/", views.show_tale),
]
