"""What people and programs get to read. Reads records only; decides nothing."""
