-- Counts one call against its windows.
-- KEYS    the windows of one subject
-- ARGV    for each window: count, window_us
-- answer  microseconds to wait; 0 if it passed and was counted

return pass(KEYS, 1, ARGV, 1)
