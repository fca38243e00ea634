#!lua name=arriero2
-- Limits in Redis: every counter of a call is checked and reserved in one step, and settled once. The twin of
-- gateway/limits/buckets.py and book.py. The library's name carries a version: replicas of two versions go on side by side.
--
-- KEYS: the open reservations (hash: id -> record), when each is due (sorted set: id, ms), then one counter per limit.
-- ARGV: the call's id, and all numbers of it as one MessagePack; what is answered is one as well (shares.py).
-- Rates are one number, the theoretical arrival time in microseconds. Places are {h}. Money is {c, b, m, e, h, k}: when the
-- counter began, what had been settled before that, settled since, charged for calls that never said how they ended,
-- held; k when somebody who knew the ledger has spoken. b + m only grows; after a loss b is what the best informed replica
-- had seen of the counter before.
-- A record is [state, [[kind, key, taken, mark], ...]]; its state is held, settled or expired.

local MINUTE = 60000000
local NEVER = 4503599627370496
local SWEEP = 50
local IDLE_S = 172800
local LIFE_S = {d = 259200, m = 3456000}
local MONEY = {d = true, m = true, t = true}

local function clock()
  local now = redis.call('TIME')
  return now[1] * 1000000 + now[2]
end

local function text(number)
  return string.format('%.0f', number)
end

-- A counter as it stands: read once, changed here, written once by `write`.
local function read(kind, key, now)
  if kind == 'r' then
    local tat = tonumber(redis.call('GET', key) or 0)
    -- a clock that was set back by an hour or more would shut the key for as long
    if tat > now + 60 * MINUTE then tat = now + MINUTE end
    return {kind = kind, key = key, tat = tat}
  end
  if kind == 'c' then return {kind = kind, key = key, h = tonumber(redis.call('HGET', key, 'h') or 0)} end
  local found = redis.call('HMGET', key, 'c', 'b', 'm', 'e', 'h', 'k')
  for i = 2, 6 do found[i] = tonumber(found[i] or 0) end
  local began, b, m, e, h, k = found[1] and tonumber(found[1]), unpack(found, 2)
  return {kind = kind, key = key, c = began, fresh = not began, b = b, m = m, e = e, h = h, k = k}
end

local function write(at, now)
  if at.kind == 'r' then
    if at.tat > now then
      redis.call('SET', at.key, text(at.tat), 'PX', text(math.ceil((at.tat - now) / 1000) + 1000))
    else
      redis.call('DEL', at.key)
    end
  elseif at.kind == 'c' then
    redis.call('HSET', at.key, 'h', text(at.h))
    redis.call('EXPIRE', at.key, IDLE_S)
  else
    at.c = at.c or now
    local key, b, m, e, h = at.key, text(at.b), text(at.m), text(at.e), text(at.h)
    redis.call('HSET', key, 'c', text(at.c), 'b', b, 'm', m, 'e', e, 'h', h, 'k', text(at.k))
    if at.fresh and LIFE_S[at.kind] then redis.call('EXPIRE', at.key, LIFE_S[at.kind]) end
  end
end

local function release(at, amount)
  at.h = at.h - math.min(amount, at.h)
end

-- Puts back what a caller knows: what was settled and charged of the counter that began at `known` (0: it never saw one),
-- and what was of the ones before that (`base`); and what its ledger says (-1: it could not be read), where nobody who
-- knew that has spoken yet.
local function restore(at, known, settled, charged, base, ledger)
  local before = base
  if known == at.c then
    before = math.max(base, settled - at.m) -- it went back in time: a replica took over that had not heard all
  elseif known ~= 0 then
    before = math.max(base, settled + charged)
  end
  if ledger >= 0 and at.k == 0 then
    before = math.max(before, ledger - at.m - at.e)
    at.k = 1
  end
  at.b = math.max(at.b, before)
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
local function expire(keys, id, parts, now, due_ms)
  for _, part in ipairs(parts) do
    local kind, key, taken = part[1], part[2], part[3]
    if kind ~= 'r' then
      local at = read(kind, key, now)
      release(at, taken)
      if MONEY[kind] then at.e = at.e + taken end
      write(at, now)
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
      expire(keys, id, parts, now, now_ms + keep_ms)
    else
      redis.call('HDEL', keys[1], id)
      redis.call('ZREM', keys[2], id)
    end
  end
end

-- How long an amount has to wait for room, in microseconds.
local function wait(at, limit, amount, hard, now)
  if at.kind == 'r' then return math.max(0, math.max(at.tat, now) + amount - MINUTE - now) end
  local left = limit - at.h
  if MONEY[at.kind] then left = left - at.b - at.m - at.e end
  if MONEY[at.kind] and not hard then return left > 0 and 0 or NEVER end
  return amount <= left and 0 or NEVER
end

local function take(at, amount, now)
  if at.kind == 'r' then
    at.tat = math.max(at.tat, now) + amount
    return at.tat
  end
  at.h = at.h + amount
  return 0
end

local function reading(at, now, found)
  local numbers = {at.b and at.b + at.m or 0, at.e or 0, at.h, at.c or 0}
  if at.kind == 'r' then numbers = {math.max(0, at.tat - now), 0, 0, 0} end
  if at.kind == 'c' then numbers = {at.h, 0, 0, 0} end
  for _, number in ipairs(numbers) do found[#found + 1] = number end
end

-- When this store of reservations began: another time than before says that everything was lost in between.
local function epoch(keys, now)
  local found = redis.call('HGET', keys[1], '#')
  if found then return tonumber(found) end
  redis.call('HSET', keys[1], '#', text(now))
  return now
end

-- Said: life_ms, keep_ms, force, and of each counter kind, limit, amount, hard, and of money what is known of it.
-- Gives: the epoch, the counter that refused (0: none), how long it has to wait, and four numbers a counter. A
-- reservation that is there already is admitted again and takes nothing.
local function reserve(keys, args)
  local now, id = clock(), args[1]
  local life_ms, keep_ms, force, counters = unpack(cmsgpack.unpack(args[2]))
  sweep(keys, now, keep_ms)
  local began = epoch(keys, now)
  local worst, longest, at = 0, 0, {}
  local known = redis.call('HEXISTS', keys[1], id) == 1
  for i, of in ipairs(counters) do
    at[i] = read(of[1], keys[i + 2], now)
    if MONEY[of[1]] then restore(at[i], of[5], of[6], of[7], of[8], of[9]) end
    local waits = wait(at[i], of[2], of[3], of[4], now)
    if waits > longest and not known and not force then worst, longest = i, waits end
  end
  local taking, parts = longest == 0 and not known, {}
  for i, of in ipairs(counters) do
    if taking then parts[i] = {of[1], keys[i + 2], of[3], take(at[i], of[3], now)} end
    if taking or MONEY[of[1]] then write(at[i], now) end
  end
  if taking then keep(keys, id, 'held', parts, math.floor(now / 1000) + life_ms) end
  local found = {began, worst, longest}
  for i = 1, #counters do reading(at[i], now, found) end
  return cmsgpack.pack(found)
end

local function correct(at, state, part, actual, now)
  local taken, mark = part[3], part[4]
  if at.kind == 'r' then
    local delta = math.max(0, mark - taken + actual - now) - math.max(0, mark - now)
    at.tat = at.tat + delta
  elseif at.kind == 'c' then
    if state == 'held' then release(at, taken) end
  else
    if state == 'held' then release(at, taken) else at.e = at.e - math.min(taken, at.e) end
    at.m = at.m + actual
  end
end

-- Said: keep_ms, and of each counter kind, actual, and of money what is known of it. Gives what is settled and charged in
-- each counter now, and when it began. A second time changes nothing. One that was never reserved here, or forgotten with everything
-- else, is charged as it is.
local function settle(keys, args)
  local now, id = clock(), args[1]
  local keep_ms, counters = unpack(cmsgpack.unpack(args[2]))
  local state, parts = record(keys, id)
  local found = {}
  for i, of in ipairs(counters) do
    local kind, actual = of[1], of[2]
    local at = read(kind, keys[i + 2], now)
    if state ~= 'settled' then
      if MONEY[kind] then restore(at, of[3], of[4], of[5], of[6], of[7]) end
      if parts then
        correct(at, state, parts[i], actual, now)
      elseif kind == 'r' then
        take(at, actual, now)
      elseif MONEY[kind] then
        at.m = at.m + actual
      end
      write(at, now)
    end
    found[#found + 1] = at.b and at.b + at.m or 0
    found[#found + 1] = at.e or 0
    found[#found + 1] = at.c or 0
  end
  if state ~= 'settled' then
    keep(keys, id, 'settled', {}, math.floor(now / 1000) + keep_ms)
    sweep(keys, now, keep_ms)
  end
  return cmsgpack.pack(found)
end

-- Whether it takes writes; a ping would say yes at a read-only replica or a full server.
local function probe(keys, args)
  redis.call('SET', keys[1], '1', 'PX', 60000)
  return 1
end

-- A notice board: ARGV are field, rank and text of each piece of news; what has a higher rank stays. Gives the time in
-- milliseconds, then all of it.
local function exchange(keys, args)
  for i = 1, #args, 3 do
    local found = redis.call('HGET', keys[1], args[i])
    if not found or tonumber(string.match(found, '^%d+')) < tonumber(args[i + 1]) then
      redis.call('HSET', keys[1], args[i], args[i + 1] .. ' ' .. args[i + 2])
    end
  end
  if #args > 0 then redis.call('EXPIRE', keys[1], 3600) end
  local found = redis.call('HGETALL', keys[1])
  table.insert(found, 1, text(clock() / 1000))
  return found
end

redis.register_function('arriero2_exchange', exchange)
redis.register_function('arriero2_reserve', reserve)
redis.register_function('arriero2_settle', settle)
redis.register_function('arriero2_probe', probe)
