"""From written text to units: the phones, blanks and punctuation that a voice reads."""
