"""What follows from changes, wherever they are made: in the admin, for example.

`QuerySet.update` sends no signals: whoever uses that publishes by themselves.
"""

from django.conf import settings
from django.contrib.auth import SESSION_KEY, get_user_model
from django.contrib.sessions.models import Session
from django.db.models.signals import post_delete, post_save, pre_delete, pre_save
from django.dispatch import receiver

from . import presence
from .models import Presence, Room
from .publishing import control, publish

PERMISSIONS = ("is_active", "is_staff", "password")  # with the password, sessions end


@receiver(pre_save, sender=Room)
@receiver(pre_save, sender=settings.AUTH_USER_MODEL)
def remember(instance, **_) -> None:
    instance.before = type(instance)._default_manager.filter(pk=instance.pk).first()


@receiver(post_save, sender=Room)
def room_saved(instance: Room, **_) -> None:
    publish(presence.LIST, event="room", room=instance.as_json())
    if instance.before and instance.before.address != instance.address:
        # Nothing is published to the old address any more; who may have the new one subscribes to that.
        control("unsubscribe", room=instance.before.address)
        for membership in instance.memberships.select_related("user"):
            if not instance.is_open_to(membership.user):
                presence.leave(membership.user, instance, "closed")


@receiver(post_delete, sender=Room)
def room_deleted(instance: Room, **_) -> None:
    publish(presence.LIST, event="room-removed", slug=instance.slug)
    control("unsubscribe", room=instance.address)


@receiver(post_save, sender=settings.AUTH_USER_MODEL)
def user_saved(instance, **_) -> None:
    if instance.before is None or all(getattr(instance, name) == getattr(instance.before, name) for name in PERMISSIONS):
        return
    for membership in instance.memberships.select_related("room"):
        if not membership.room.is_open_to(instance):
            presence.leave(instance, membership.room, "closed")
    if instance.is_active:
        control("reauthorize", user=str(instance.pk))
    else:
        control("disconnect", user=str(instance.pk))
        Presence.objects.filter(user=instance).delete()


@receiver(pre_delete, sender=settings.AUTH_USER_MODEL)
def user_about_to_be_deleted(instance, **_) -> None:
    presence.leave_all(instance)  # the rest follows when the presence is deleted with the user
    control("disconnect", user=str(instance.pk))


@receiver(post_delete, sender=Session)
def session_deleted(instance: Session, **_) -> None:
    """A logout, by whatever page. The user's other sessions stay: high-templar asks again for all, and is refused for this one."""
    user = instance.get_decoded().get(SESSION_KEY)
    if user is not None:
        control("reauthorize", user=user)


@receiver(post_delete, sender=Presence)
def presence_deleted(instance: Presence, **_) -> None:
    user = get_user_model().objects.filter(pk=instance.user_id).first()
    if user is not None:
        presence.ended(user)
