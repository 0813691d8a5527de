"""What keeps a run exact: the only room that knows private names of Lightning."""
