-- Notes that subscribers were told of a generation.
-- KEYS    1 head
-- ARGV    1 generation
-- answer  1 if that was still to be noted

if redis.call('HGET', KEYS[1], 'resync') ~= ARGV[1] then return 0 end
return redis.call('HDEL', KEYS[1], 'resync')
