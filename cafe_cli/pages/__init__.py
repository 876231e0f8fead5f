"""What pages of HTML share: the frame, tables, pictures, and the look. Every page is one file."""
