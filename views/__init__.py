"""What a terminal shows: one function a command, from the command's result to Rich output."""
