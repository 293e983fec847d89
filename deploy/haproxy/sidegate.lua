-- Check a request with Sidegate: `http-request lua.sidegate http://HOST:PORT/auth-request`.
-- It needs only the httpclient of HAProxy.
-- 200 sets the identity headers, and the request continues. 401 and 403 end it with the response of Sidegate.
-- Anything else, or no response, is an outage: 503 and Retry-After, neither allow nor deny.

-- The only headers of the client that are forwarded: credentials, and what sessions may be bound to.
local FORWARDED = { "authorization", "cookie", "user-agent", "accept-language" }
local DENIAL = { "content-type", "cache-control", "www-authenticate" }   -- the only headers of a denial that the client gets

-- Copy a header table of HAProxy, which starts at 0, to a Lua list.
local function to_list(values)
    local list, at = {}, 0
    while values and values[at] do
        list[#list + 1] = values[at]
        at = at + 1
    end
    return list
end

local function subrequest_headers(txn)
    local sent, headers = txn.http:req_get_headers(), {}
    for _, name in ipairs(FORWARDED) do
        headers[name] = to_list(sent[name])
    end
    headers["cookie"] = { table.concat(headers["cookie"], "; ") }   -- several lines form one list (RFC 9113, 8.2.3)
    if #headers["user-agent"] > 1 then headers["user-agent"] = {} end   -- two are not valid (RFC 9110, 5.3)
    headers["x-original-method"] = { txn.f:method() }
    headers["x-original-uri"] = { txn.f:pathq() }
    headers["x-real-ip"] = { txn.f:src() }
    for name, list in pairs(headers) do
        if not list[1] or list[1] == "" then headers[name] = nil end
    end
    return headers
end

local function send_subrequest(txn, url)
    local sent, response = pcall(function()
        return core.httpclient():get { url = url, headers = subrequest_headers(txn) }
    end)
    return sent and response or { status = 0, headers = {} }
end

local function allow(txn, response)
    for name, values in pairs(response.headers) do
        if name:find("^x%-auth%-") and name ~= "x-auth-status" then
            txn.http:req_set_header(name, values[0])
        end
    end
end

local function deny(txn, response)
    local headers = {}
    for _, name in ipairs(DENIAL) do
        headers[name] = to_list(response.headers[name])
    end
    txn:done(txn:reply { status = response.status, headers = headers, body = response.body })
end

local function unavailable(txn)
    txn:done(txn:reply { status = 503, headers = { ["retry-after"] = { "1" }, ["cache-control"] = { "no-store" } } })
end

core.register_action("sidegate", { "http-req" }, function(txn, url)
    local response = send_subrequest(txn, url)
    if response.status == 200 then
        allow(txn, response)
    elseif response.status == 401 or response.status == 403 then
        deny(txn, response)
    else
        unavailable(txn)
    end
end, 1)
