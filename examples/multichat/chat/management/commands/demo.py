from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import BaseCommand, CommandError, call_command
from django.utils.text import slugify

from chat.models import Room

ROOMS = [("Lobby", False), ("Kitchen", False), ("Staff room", True)]


class Command(BaseCommand):
    help = "Makes the database, two users and some rooms to look around with. Does no harm where they are there already."

    def handle(self, **_) -> None:
        if not settings.DEBUG:
            raise CommandError("The demo's passwords are no secret: only with DEBUG=1.")
        call_command("migrate", verbosity=0)
        for name, is_staff in [("alice", True), ("bob", False)]:
            users = get_user_model().objects
            user = users.filter(username=name).first() or users.model(username=name, is_staff=is_staff, is_superuser=is_staff)
            if not user.check_password(name):
                user.set_password(name)
                user.save()
        for name, staff_only in ROOMS:
            Room.objects.get_or_create(slug=slugify(name), defaults={"name": name, "staff_only": staff_only})
        self.stdout.write("Log in as alice with the password alice (staff, may use the admin), or as bob with the password bob.")
