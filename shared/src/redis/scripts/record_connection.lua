-- Records that a user has opened a connection.
-- KEYS    1 the user's connections
-- ARGV    1 connection, 2 session, 3 most connections of one user, 4 seconds that a connection can live
-- answer  1 recorded (also if it was before), 0 the user has too many
--
-- $disconnect is best effort: connections older than the gateway lets any live are forgotten here, so that lost ones
-- do not lock a user out.

local now = tonumber(redis.call('TIME')[1])
local lifetime = tonumber(ARGV[4])

if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) then
  local connections = redis.call('HGETALL', KEYS[1])
  for index = 1, #connections, 2 do
    local since = tonumber(string.match(connections[index + 1], ' (%d+)$'))
    if not since or since + lifetime < now then redis.call('HDEL', KEYS[1], connections[index]) end
  end
  if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
end

redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. string.format('%.0f', now))
redis.call('EXPIRE', KEYS[1], lifetime)
return 1
