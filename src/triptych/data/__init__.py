"""Tables, photos and text: from what the user keeps to the catalogue every stage reads."""
