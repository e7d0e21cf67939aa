-- Ends the subscriptions of connections.
-- KEYS    1 head, 2 subscribers, 3 online
-- ARGV    1 fresh version of the subscribers, 2… connections
-- answer  how many had joined

local left = 0
for index = 2, #ARGV do
  if unsubscribe(KEYS[2], KEYS[3], ARGV[index]) then left = left + 1 end
end
if left > 0 then redis.call('HSET', KEYS[1], 'subscribers', ARGV[1]) end
return left
