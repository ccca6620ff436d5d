"""What a terminal shows: one function a verb, from the verb's result to Rich output."""
