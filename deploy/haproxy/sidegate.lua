-- Ask Sidegate whether a request may pass: `http-request lua.sidegate http://HOST:PORT/auth-request`.
-- Nothing but HAProxy's own httpclient is used.
-- 200 sets the identity headers and lets the request go on. 401 and 403 end it, as Sidegate says.
-- Anything else, silence too, is an outage: 503 and Retry-After, never a yes and never a no.

-- All that Sidegate learns of the client's words: credentials, and what sessions may be bound to.
local QUESTION = { "authorization", "cookie", "user-agent", "accept-language" }
local DENIAL = { "content-type", "cache-control", "www-authenticate" }   -- all that the client learns of its answer

-- HAProxy's header tables start at 0.
local function lines(values)
    local list, at = {}, 0
    while values and values[at] do
        list[#list + 1] = values[at]
        at = at + 1
    end
    return list
end

local function question(txn)
    local sent, headers = txn.http:req_get_headers(), {}
    for _, name in ipairs(QUESTION) do
        headers[name] = lines(sent[name])
    end
    headers["cookie"] = { table.concat(headers["cookie"], "; ") }   -- several lines are one list (RFC 9113, 8.2.3)
    if #headers["user-agent"] > 1 then headers["user-agent"] = {} end   -- two are no HTTP (RFC 9110, 5.3)
    headers["x-original-method"] = { txn.f:method() }
    headers["x-original-uri"] = { txn.f:pathq() }
    headers["x-real-ip"] = { txn.f:src() }
    for name, list in pairs(headers) do
        if not list[1] or list[1] == "" then headers[name] = nil end
    end
    return headers
end

local function ask(txn, url)
    local asked, answer = pcall(function()
        return core.httpclient():get { url = url, headers = question(txn) }
    end)
    return asked and answer or { status = 0, headers = {} }
end

local function allow(txn, answer)
    for name, values in pairs(answer.headers) do
        if name:find("^x%-auth%-") and name ~= "x-auth-status" then
            txn.http:req_set_header(name, values[0])
        end
    end
end

local function deny(txn, answer)
    local headers = {}
    for _, name in ipairs(DENIAL) do
        headers[name] = lines(answer.headers[name])
    end
    txn:done(txn:reply { status = answer.status, headers = headers, body = answer.body })
end

local function unavailable(txn)
    txn:done(txn:reply { status = 503, headers = { ["retry-after"] = { "1" }, ["cache-control"] = { "no-store" } } })
end

core.register_action("sidegate", { "http-req" }, function(txn, url)
    local answer = ask(txn, url)
    if answer.status == 200 then
        allow(txn, answer)
    elseif answer.status == 401 or answer.status == 403 then
        deny(txn, answer)
    else
        unavailable(txn)
    end
end, 1)
