-- Removes a room. For a while its head says that it has ended, so that a join that is under way finds out.
-- KEYS    1 head, 2 log, 3 subscribers, 4 online
-- ARGV    1 seconds for which the head stays
-- answer  1

redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
redis.call('HSET', KEYS[1], 'ended', 1)
return redis.call('EXPIRE', KEYS[1], ARGV[1])
