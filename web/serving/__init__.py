"""Everything about connections outside of the views: gunicorn's worker, slow bodies, clients that leave."""
