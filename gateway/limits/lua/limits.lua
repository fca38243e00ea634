#!lua name=arriero1
-- Limits in Redis: every counter of a call is checked and reserved in one step, and settled once. The twin of
-- gateway/limits/buckets.py and book.py. The library's name carries a version: replicas of two versions go on side by side.
--
-- KEYS: the open reservations (hash: id -> record), when each is due (sorted set: id, ms), then one counter per limit.
-- Rates are one number, the theoretical arrival time in microseconds. Places are {h}. Money is {c, b, m, e, h}: when the
-- counter began, what had been settled before that, settled since, charged for calls that never said how they ended,
-- held. b + m only grows; after a loss b is what the best informed replica had seen of the counter before.
-- A record is [state, [[kind, key, taken, mark], ...]]; its state is held, settled or expired.

local MINUTE = 60000000
local NEVER = 4503599627370496
local SWEEP = 50
local IDLE_S = 172800
local LIFE_S = {d = 259200, m = 3456000}

local function clock()
  local now = redis.call('TIME')
  return now[1] * 1000000 + now[2]
end

local function text(number)
  return string.format('%.0f', number)
end

local function field(key, name)
  return tonumber(redis.call('HGET', key, name) or 0)
end

local function add(key, name, amount)
  if amount ~= 0 then redis.call('HINCRBY', key, name, text(amount)) end
end

local function release(key, amount)
  add(key, 'h', -math.min(amount, field(key, 'h')))
end

local function tat(key, now)
  local found = tonumber(redis.call('GET', key) or 0)
  -- a clock that was set back by an hour or more would shut the key for as long
  if found > now + 60 * MINUTE then return now + MINUTE end
  return found
end

local function set_tat(key, value, now)
  if value > now then
    redis.call('SET', key, text(value), 'PX', text(math.ceil((value - now) / 1000) + 1000))
  else
    redis.call('DEL', key)
  end
end

local function is_money(kind)
  return kind == 'd' or kind == 'm' or kind == 't'
end

local function settled_sum(key)
  return field(key, 'b') + field(key, 'm')
end

-- Puts back what a caller knows was settled: `seen` of the counter that began at `known`; or, when it never saw one and
-- there is none (then 1 comes back), what its ledger says.
local function restore(kind, key, known, seen, ledger, now)
  if not is_money(kind) then return 0 end
  local began = tonumber(redis.call('HGET', key, 'c'))
  local fresh = began and 0 or 1
  if not began then
    redis.call('HSET', key, 'c', text(now), 'm', '0')
    if LIFE_S[kind] then redis.call('EXPIRE', key, LIFE_S[kind]) end
  end
  local base, before = field(key, 'b'), 0
  if known == 0 then
    before = fresh == 1 and ledger or 0
  elseif known ~= began then
    before = seen
  else
    before = base + seen - settled_sum(key) -- it went back in time: a replica took over that had not heard all
  end
  if before > base then redis.call('HSET', key, 'b', text(before)) end
  return fresh
end

local function known_of(args, at)
  return tonumber(args[at]), tonumber(args[at + 1]), tonumber(args[at + 2])
end

local function keep(keys, id, state, parts, due_ms)
  redis.call('HSET', keys[1], id, cmsgpack.pack({state, parts}))
  redis.call('ZADD', keys[2], text(due_ms), id)
  redis.call('EXPIRE', keys[1], IDLE_S)
  redis.call('EXPIRE', keys[2], IDLE_S)
end

local function record(keys, id)
  local found = redis.call('HGET', keys[1], id)
  if not found then return nil end
  found = cmsgpack.unpack(found)
  return found[1], found[2]
end

-- Nobody said how these ended: their places are free again, their money is charged as it was reserved.
local function expire(keys, id, parts, due_ms)
  for _, part in ipairs(parts) do
    local kind, key, taken = part[1], part[2], part[3]
    if kind == 'c' then release(key, taken) end
    if is_money(kind) then
      release(key, taken)
      add(key, 'e', taken)
    end
  end
  keep(keys, id, 'expired', parts, due_ms)
end

local function sweep(keys, now, keep_ms)
  local now_ms = math.floor(now / 1000)
  local due = redis.call('ZRANGEBYSCORE', keys[2], '-inf', text(now_ms), 'LIMIT', 0, SWEEP)
  for _, id in ipairs(due) do
    local state, parts = record(keys, id)
    if state == 'held' then
      expire(keys, id, parts, now_ms + keep_ms)
    else
      redis.call('HDEL', keys[1], id)
      redis.call('ZREM', keys[2], id)
    end
  end
end

-- How long an amount has to wait for room, in microseconds.
local function wait(kind, key, limit, amount, hard, now)
  if kind == 'r' then return math.max(0, math.max(tat(key, now), now) + amount - MINUTE - now) end
  local left = limit - field(key, 'h')
  if is_money(kind) then left = left - settled_sum(key) - field(key, 'e') end
  if is_money(kind) and not hard then return left > 0 and 0 or NEVER end
  return amount <= left and 0 or NEVER
end

local function take(kind, key, amount, now)
  if kind == 'r' then
    local mark = math.max(tat(key, now), now) + amount
    set_tat(key, mark, now)
    return mark
  end
  add(key, 'h', amount)
  if kind == 'c' then redis.call('EXPIRE', key, IDLE_S) end
  return 0
end

local function reading(kind, key, now)
  if kind == 'r' then return {math.max(0, tat(key, now) - now), 0, 0, 0} end
  if kind == 'c' then return {field(key, 'h'), 0, 0, 0} end
  return {settled_sum(key), field(key, 'e'), field(key, 'h'), field(key, 'c')}
end

-- When this store of reservations began: another time than before says that everything was lost in between.
local function epoch(keys, now)
  redis.call('HSETNX', keys[1], '#', text(now))
  return tonumber(redis.call('HGET', keys[1], '#'))
end

-- ARGV: id, life_ms, keep_ms, force, then for each counter: kind, limit, amount, hard, and what is known of it.
-- Gives: the epoch, the counter that refused (0: none), how long it has to wait, how many counters were not there, and
-- four numbers a counter. A reservation that is there already is admitted again and takes nothing.
local function reserve(keys, args)
  local now = clock()
  local id, life_ms, keep_ms, force = args[1], tonumber(args[2]), tonumber(args[3]), args[4] == '1'
  sweep(keys, now, keep_ms)
  local worst, longest, fresh = 0, 0, 0
  local known = redis.call('HEXISTS', keys[1], id) == 1
  for i = 3, #keys do
    local at = 7 * (i - 3) + 5
    local began, seen, ledger = known_of(args, at + 4)
    fresh = fresh + restore(args[at], keys[i], began, seen, ledger, now)
    local waits = wait(args[at], keys[i], tonumber(args[at + 1]), tonumber(args[at + 2]), args[at + 3] == '1', now)
    if waits > longest and not known and not force then worst, longest = i - 2, waits end
  end
  if longest == 0 and not known then
    local parts = {}
    for i = 3, #keys do
      local at = 7 * (i - 3) + 5
      local amount = tonumber(args[at + 2])
      parts[i - 2] = {args[at], keys[i], amount, take(args[at], keys[i], amount, now)}
    end
    keep(keys, id, 'held', parts, math.floor(now / 1000) + life_ms)
  end
  local found = {epoch(keys, now), worst, longest, fresh}
  for i = 3, #keys do
    for _, number in ipairs(reading(args[7 * (i - 3) + 5], keys[i], now)) do found[#found + 1] = number end
  end
  return found
end

local function correct(state, part, actual, now)
  local kind, key, taken, mark = part[1], part[2], part[3], part[4]
  if kind == 'r' then
    local delta = math.max(0, mark - taken + actual - now) - math.max(0, mark - now)
    if delta ~= 0 then set_tat(key, tat(key, now) + delta, now) end
  elseif kind == 'c' then
    if state == 'held' then release(key, taken) end
  elseif state == 'held' then
    release(key, taken)
    add(key, 'm', actual)
  else
    add(key, 'e', -math.min(taken, field(key, 'e')))
    add(key, 'm', actual)
  end
end

local function settled_sums(keys, args)
  local found = {}
  for i = 3, #keys do
    local money = is_money(args[5 * (i - 3) + 3])
    found[#found + 1] = money and settled_sum(keys[i]) or 0
    found[#found + 1] = money and field(keys[i], 'c') or 0
  end
  return found
end

-- ARGV: id, keep_ms, then for each counter: kind, actual, and what is known of it. Gives what is settled in each counter now, and when it began.
-- A second time changes nothing. One that was never reserved here, or forgotten with everything else, is charged as it is.
local function settle(keys, args)
  local now = clock()
  local id, keep_ms = args[1], tonumber(args[2])
  local state, parts = record(keys, id)
  if state == 'settled' then return settled_sums(keys, args) end
  for i = 3, #keys do
    local at = 5 * (i - 3) + 3
    local kind, actual = args[at], tonumber(args[at + 1])
    local began, seen, ledger = known_of(args, at + 2)
    restore(kind, keys[i], began, seen, ledger, now)
    if parts then
      correct(state, parts[i - 2], actual, now)
    elseif kind == 'r' then
      take(kind, keys[i], actual, now)
    elseif is_money(kind) then
      add(keys[i], 'm', actual)
    end
  end
  keep(keys, id, 'settled', {}, math.floor(now / 1000) + keep_ms)
  sweep(keys, now, keep_ms)
  return settled_sums(keys, args)
end

-- Whether it takes writes; a ping would say yes at a read-only replica or a full server.
local function probe(keys, args)
  redis.call('SET', keys[1], '1', 'PX', 60000)
  return 1
end

-- A notice board: ARGV are field, rank and text of each piece of news; what has a higher rank stays. Gives all of it.
local function exchange(keys, args)
  for i = 1, #args, 3 do
    local found = redis.call('HGET', keys[1], args[i])
    if not found or tonumber(string.match(found, '^%d+')) < tonumber(args[i + 1]) then
      redis.call('HSET', keys[1], args[i], args[i + 1] .. ' ' .. args[i + 2])
    end
  end
  if #args > 0 then redis.call('EXPIRE', keys[1], 3600) end
  return redis.call('HGETALL', keys[1])
end

redis.register_function('arriero1_exchange', exchange)
redis.register_function('arriero1_reserve', reserve)
redis.register_function('arriero1_settle', settle)
redis.register_function('arriero1_probe', probe)
