-- Marks a connection as gone, before its rooms are looked up to be left: from now on no frame of its is admitted, a join
-- that is under way finds out when it looks whether it is connected, and for a while nothing brings it back. Its record
-- stays until all is done, so that a repeat of ending its session finds it.
-- KEYS    1 the user's connections, 2 there if this connection is gone
-- ARGV    1 connection, 2 seconds for which it is remembered
-- answer  1 if it was known

redis.call('SET', KEYS[2], 1, 'EX', ARGV[2])
local record = redis.call('HGET', KEYS[1], ARGV[1])
if not record then return 0 end
if string.sub(record, 1, 1) ~= '-' then redis.call('HSET', KEYS[1], ARGV[1], '-' .. record) end
return 1
