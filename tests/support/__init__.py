"""What the tests share: servers, images, fixtures."""
