"""In front of Immich's own API: its search calls, answered with what Immich itself finds in the text of photos.

The user's reverse proxy sends three paths here and everything else straight to Immich. Whatever is answered was given
by Immich to the credentials of the caller.
"""
