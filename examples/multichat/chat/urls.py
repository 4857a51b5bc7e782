from django.urls import path

from . import api, hooks, views
from .api import view

urlpatterns = [
    path("", views.index, name="index"),
    path("api/bootstrap/", view(GET=api.bootstrap)),
    path("api/rooms/", view(GET=api.read_rooms)),
    path("api/rooms/<slug:slug>/", view(GET=api.read_room)),
    path("api/rooms/<slug:slug>/join/", view(POST=api.join)),
    path("api/rooms/<slug:slug>/leave/", view(POST=api.leave)),
    path("api/rooms/<slug:slug>/messages/", view(GET=api.read_older, POST=api.write)),
    path("api/messages/<int:pk>/", view(PATCH=api.edit, DELETE=api.delete)),
    path("api/hooks/connect/", hooks.connect),
    path("api/hooks/ping/", hooks.ping),
    path("api/hooks/disconnect/", hooks.disconnect),
]
