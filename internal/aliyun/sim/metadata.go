package sim

import (
	"crypto/rand"
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

func (c *Cloud) serveMetadata(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
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
	text, ok := lookup(c.metadataOf(r.RemoteAddr), key)
	if !ok {
		http.NotFound(w, r)
		return
	}
	// The client may be gone; there is nobody to tell.
	_, _ = w.Write([]byte(text))
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
	token := rand.Text()
	now := c.cfg.Now()
	c.mu.Lock()
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

// metadataOf returns the keys of the instance that asks, by path; nil if it is none.
func (c *Cloud) metadataOf(remote string) map[string]string {
	now := c.cfg.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	in := c.callerOf(remote)
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
		"vpc-cidr-block":         c.cfg.VPCCIDR.String(),
		"vswitch-id":             in.VSwitchID,
		"vswitch-cidr-block":     s.CIDR.String(),
		"owner-account-id":       "1000000000000000",
	}
	for _, e := range c.attached(in.ID) {
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

// addInterface adds the keys of one ENI. The caller holds c.mu.
func (c *Cloud) addInterface(keys map[string]string, e *eni) {
	texts := []string{}
	for _, a := range e.PrivateIPs {
		texts = append(texts, a.String())
	}
	list, _ := json.Marshal(texts) // strings always encode
	mask := net.IP(net.CIDRMask(e.subnet.CIDR.Bits(), 32))
	for key, value := range map[string]string{
		"network-interface-id": e.ID,
		"primary-ip-address":   e.PrimaryIP.String(),
		"private-ipv4s":        string(list),
		"gateway":              e.subnet.gateway.String(),
		"netmask":              mask.String(),
		"vswitch-id":           e.VSwitchID,
		"vswitch-cidr-block":   e.subnet.CIDR.String(),
		"vpc-cidr-block":       c.cfg.VPCCIDR.String(),
	} {
		keys[path.Join("network/interfaces/macs", e.MAC, key)] = value
	}
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
		instance: instanceID, id: "STS." + rand.Text(), secret: rand.Text(), token: rand.Text(),
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
