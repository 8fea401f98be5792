"""The coordinator's side: who does which step, photos out and artifacts in, its folder, looking after it."""
