"""As short as Django lets it be: no database, no templates."""

SECRET_KEY = "for this example only"
DEBUG = True
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
INSTALLED_APPS = ["tales"]
ROOT_URLCONF = "mysite.urls"
USE_TZ = True
