"""Where clips come from: manifests, folders, tars."""
