"""`paceline advise`: which lever is worth pulling on this traffic, with what setting, and when the answer is none."""
