"""One run: its folder, how it is created and opened, and what must hold before it is worked on."""
