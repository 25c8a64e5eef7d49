"""The API's protocol and error, under the name by which the rooms that talk to the API know them (see `model.api`)."""

from podwire.model.api import Api, ApiError, InSync, Key, Object, Update

__all__ = ["Api", "ApiError", "InSync", "Key", "Object", "Update"]
