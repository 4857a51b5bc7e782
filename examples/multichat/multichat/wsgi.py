import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "multichat.settings")
application = get_wsgi_application()

from chat import background  # noqa: E402 (needs the application)

background.start()
