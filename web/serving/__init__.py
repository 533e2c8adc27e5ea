"""What happens to connections around the views: gunicorn's worker, slow bodies, clients that leave."""
