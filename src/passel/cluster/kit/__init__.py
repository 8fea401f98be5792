"""What a bare computer gets from its coordinator: wheels and the script that installs them."""
