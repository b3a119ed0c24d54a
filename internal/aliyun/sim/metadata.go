package sim

import (
	"encoding/json"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

const (
	tokenHeader    = "X-aliyun-ecs-metadata-token"
	tokenTTLHeader = "X-aliyun-ecs-metadata-token-ttl-seconds"
	maxTokenTTL    = 21600

	sessionLife    = time.Hour
	sessionRenewal = 30 * time.Minute // keys with less life left are replaced
)

// A session is a set of temporary keys of the instance role. Its fields never change.
type session struct {
	instance string
	id       string
	secret   string
	token    string
	made     time.Time
	expires  time.Time
}

// serveMetadata answers for the instance that asks, or the one with the ID if it is given.
func (c *Cloud) serveMetadata(w http.ResponseWriter, r *http.Request, instanceID string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if c.spoilMetadata(w, r) {
		return
	}
	if r.URL.Path == "/latest/api/token" {
		c.serveToken(w, r)
		return
	}
	if r.Method != http.MethodGet {
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	if !c.tokenAccepted(r.Header.Get(tokenHeader)) {
		http.Error(w, "unauthorized", http.StatusUnauthorized)
		return
	}
	key, ok := strings.CutPrefix(r.URL.Path, "/latest/meta-data/")
	if !ok {
		http.NotFound(w, r)
		return
	}
	text, ok := lookup(c.metadataOf(r.RemoteAddr, instanceID), key)
	if !ok {
		http.NotFound(w, r)
		return
	}
	// The client may be gone; there is nobody to tell.
	_, _ = w.Write([]byte(text))
}

// spoilMetadata lets rate limits and faults act, and reports whether the request is done with.
func (c *Cloud) spoilMetadata(w http.ResponseWriter, r *http.Request) bool {
	met, _ := c.meet(metadataCalls)
	if c.throttle(metadataCalls, "") != nil {
		http.Error(w, "too many requests", http.StatusTooManyRequests)
		return true
	}
	c.hold(r.Context(), c.cfg.Latencies[metadataCalls].draw(c.event("latency "+metadataCalls)))
	if met == nil {
		return false
	}
	met.hang(r.Context(), HangBefore)
	if met.fault.LoseAnswer {
		panic(http.ErrAbortHandler) // net/http's way to cut the connection without an answer
	}
	if met.fault.Code != "" {
		http.Error(w, orDefault(met.fault.Message, met.fault.Code), met.fault.HTTPStatus)
		return true
	}
	return false
}

func (c *Cloud) serveToken(w http.ResponseWriter, r *http.Request) {
	if c.cfg.Tokens == TokensUnknown {
		http.NotFound(w, r)
		return
	}
	ttl, err := strconv.Atoi(r.Header.Get(tokenTTLHeader))
	if r.Method != http.MethodPut || err != nil || ttl < 1 || ttl > maxTokenTTL {
		http.Error(w, "bad request", http.StatusBadRequest)
		return
	}
	now := c.cfg.Now()
	c.mu.Lock()
	token := c.text("metadata token")
	maps.DeleteFunc(c.mdTokens, func(_ string, end time.Time) bool { return !now.Before(end) })
	c.mdTokens[token] = now.Add(time.Duration(ttl) * time.Second)
	c.mu.Unlock()
	_, _ = w.Write([]byte(token))
}

// tokenAccepted also refuses a wrong token where none is required, as the service does.
func (c *Cloud) tokenAccepted(token string) bool {
	if token == "" || c.cfg.Tokens == TokensUnknown {
		return c.cfg.Tokens != TokensRequired
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	end, ok := c.mdTokens[token]
	return ok && c.cfg.Now().Before(end)
}

// metadataOf returns the keys of the instance that asks, or of the one with the ID if it is given, by path; nil if there
// is none.
func (c *Cloud) metadataOf(remote, instanceID string) map[string]string {
	now := c.cfg.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	in := c.instances[instanceID]
	if instanceID == "" {
		in = c.callerOf(remote)
	}
	if in == nil {
		return nil
	}
	s := c.subnets[in.VSwitchID]
	keys := map[string]string{
		"instance-id":            in.ID,
		"instance/instance-type": in.Type,
		"hostname":               in.ID,
		"region-id":              in.RegionID,
		"zone-id":                in.ZoneID,
		"vpc-id":                 in.VPCID,
		"vpc-cidr-block":         c.cfg.cidrsOf(in.VPCID)[0].String(),
		"vswitch-id":             in.VSwitchID,
		"vswitch-cidr-block":     s.CIDR.String(),
		"owner-account-id":       ownerID,
	}
	if in.PublicIP.IsValid() {
		keys["eipv4"] = in.PublicIP.String()
	}
	for _, e := range c.shown(byMetadata) {
		if e.InstanceID != in.ID {
			continue
		}
		if e.Type == aliyun.TypePrimary {
			keys["mac"], keys["private-ipv4"] = e.MAC, e.PrimaryIP.String()
		}
		if e.Status == aliyun.StatusInUse {
			c.addInterface(keys, e)
		}
	}
	if c.cfg.RAMRole != "" {
		keys["ram/security-credentials/"+c.cfg.RAMRole] = c.sessionOf(in.ID, now).describe()
	}
	return keys
}

// addInterface adds the keys of one ENI; those of what it does not have are absent. The caller holds c.mu.
func (c *Cloud) addInterface(keys map[string]string, e *eniState) {
	s := e.subnet
	v4 := s.pools[aliyun.IPv4]
	own := map[string]string{
		"network-interface-id": e.ID,
		"primary-ip-address":   e.PrimaryIP.String(),
		"private-ipv4s":        jsonText(addrTexts(e.PrivateIPs)),
		"gateway":              v4.gateway.String(),
		"netmask":              net.IP(net.CIDRMask(s.CIDR.Bits(), 32)).String(),
		"vswitch-id":           e.VSwitchID,
		"vswitch-cidr-block":   s.CIDR.String(),
		"vpc-cidr-block":       c.cfg.cidrsOf(e.VPCID)[0].String(),
	}
	if len(e.IPv4Prefixes) > 0 {
		own["ipv4-prefixes"] = jsonText(texts(e.IPv4Prefixes))
	}
	if v6 := s.pools[aliyun.IPv6]; v6 != nil {
		own["ipv6-gateway"], own["vswitch-ipv6-cidr-block"] = v6.gateway.String(), s.IPv6CIDR.String()
	}
	if len(e.IPv6s) > 0 {
		own["ipv6s"] = "[" + strings.Join(addrTexts(e.IPv6s), ",") + "]" // not quoted, unlike the IPv4 list
	}
	for key, value := range own {
		keys[path.Join("network/interfaces/macs", e.MAC, key)] = value
	}
}

func jsonText(list []string) string {
	text, _ := json.Marshal(list) // strings always encode
	return string(text)
}

// callerOf finds the instance by the address the request comes from, or takes the only one there is, for callers that
// are not in the VPC. The caller holds c.mu.
func (c *Cloud) callerOf(remote string) *instance {
	if ap, err := netip.ParseAddrPort(remote); err == nil {
		if e := c.byAddr[ap.Addr().Unmap()]; e != nil {
			return c.instances[e.InstanceID]
		}
	}
	if len(c.instances) == 1 {
		for _, in := range c.instances {
			return in
		}
	}
	return nil
}

// sessionOf returns the instance's current keys and makes new ones when they near their end. Old ones work until then.
// The caller holds c.mu.
func (c *Cloud) sessionOf(instanceID string, now time.Time) *session {
	var current *session
	for id, s := range c.sessions {
		if !now.Before(s.expires) {
			delete(c.sessions, id)
			continue
		}
		if s.instance == instanceID && (current == nil || s.expires.After(current.expires)) {
			current = s
		}
	}
	if current != nil && current.expires.Sub(now) > sessionRenewal {
		return current
	}
	s := &session{
		instance: instanceID, id: "STS." + c.text("session"), secret: c.text("session"), token: c.text("session"),
		made: now, expires: now.Add(sessionLife),
	}
	c.sessions[s.id] = s
	return s
}

func (s *session) describe() string {
	text, _ := json.Marshal(object{ // strings always encode
		"Code": "Success", "AccessKeyId": s.id, "AccessKeySecret": s.secret, "SecurityToken": s.token,
		"Expiration": s.expires.UTC().Format(timestampFormat), "LastUpdated": s.made.UTC().Format(timestampFormat),
	})
	return string(text)
}

// lookup returns the value of a key, or the list of what is below it.
func lookup(keys map[string]string, key string) (string, bool) {
	if v, ok := keys[key]; ok {
		return v, true
	}
	dir := strings.TrimSuffix(key, "/")
	if dir != "" {
		dir += "/"
	}
	children := map[string]bool{}
	for k := range keys {
		below, ok := strings.CutPrefix(k, dir)
		if !ok {
			continue
		}
		if first, _, deeper := strings.Cut(below, "/"); deeper {
			children[first+"/"] = true
		} else {
			children[first] = true
		}
	}
	if len(children) == 0 {
		return "", false
	}
	return strings.Join(slices.Sorted(maps.Keys(children)), "\n"), true
}
