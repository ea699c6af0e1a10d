"""Sources of clips: manifests, folders, tars."""
