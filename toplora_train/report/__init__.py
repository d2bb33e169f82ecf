"""What a run leaves behind for people: records, pages, tables, live display."""
