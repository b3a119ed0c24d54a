package aliyun

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// DefaultMetadataURL is the metadata service as every ECS instance reaches it.
const DefaultMetadataURL = "http://100.100.100.200"

const (
	tokenTTL        = 6 * time.Hour // the longest the service grants
	tokenRenewal    = 5 * time.Minute
	tokenTTLHeader  = "X-aliyun-ecs-metadata-token-ttl-seconds"
	tokenHeader     = "X-aliyun-ecs-metadata-token"
	metadataTimeout = 3 * time.Second // one request; the service is one hop away
	metadataTries   = 4
	metadataPause   = 200 * time.Millisecond // doubles per try
	maxMetadata     = 64 << 10
	maxValue        = 256
)

// Metadata reads the metadata service of the instance. It uses tokens, and goes without where the service does not
// know them (it answers 404 in some clusters). Methods are safe for concurrent use; their errors match ErrNotFound when
// the key does not exist, ErrForbidden when the service refuses, and ErrUnavailable when it does not answer.
type Metadata struct {
	base   string
	client *http.Client
	now    func() time.Time

	mu        sync.Mutex // guards the fields below
	token     string
	expires   time.Time
	tokenless bool // the service does not know tokens
}

// NewMetadata returns a client of the service at baseURL; empty means DefaultMetadataURL. It never goes through a
// proxy: what the service says depends on who asks.
func NewMetadata(baseURL string) *Metadata {
	if baseURL == "" {
		baseURL = DefaultMetadataURL
	}
	return &Metadata{
		base: strings.TrimRight(baseURL, "/"),
		now:  time.Now,
		client: &http.Client{
			Timeout: metadataTimeout,
			Transport: &http.Transport{
				DialContext:     (&net.Dialer{Timeout: metadataTimeout}).DialContext,
				IdleConnTimeout: 30 * time.Second,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// Instance describes the instance the caller runs on. Security groups are not in the metadata.
func (m *Metadata) Instance(ctx context.Context) (Instance, error) {
	var in Instance
	fields := []struct {
		key  string
		into *string
	}{
		{"instance-id", &in.ID},
		{"instance/instance-type", &in.Type},
		{"region-id", &in.RegionID},
		{"zone-id", &in.ZoneID},
		{"vpc-id", &in.VPCID},
		{"vswitch-id", &in.VSwitchID},
	}
	for _, f := range fields {
		body, err := m.get(ctx, "meta-data/"+f.key)
		if err != nil {
			return Instance{}, err
		}
		if *f.into, err = metadataValue(body); err != nil {
			return Instance{}, fmt.Errorf("read metadata %s: %w", f.key, err)
		}
	}
	return in, nil
}

// Role names the RAM role that is attached to the instance.
func (m *Metadata) Role(ctx context.Context) (string, error) {
	body, err := m.get(ctx, "meta-data/ram/security-credentials/")
	if err != nil {
		return "", err
	}
	first, _, _ := strings.Cut(string(body), "\n")
	role, err := metadataValue([]byte(first))
	if err != nil {
		return "", fmt.Errorf("read the name of the instance role: %w", err)
	}
	return role, nil
}

// RoleKeys returns temporary keys of the role.
func (m *Metadata) RoleKeys(ctx context.Context, role string) (Keys, error) {
	body, err := m.get(ctx, "meta-data/ram/security-credentials/"+role)
	if err != nil {
		return Keys{}, err
	}
	keys, err := decodeRoleKeys(body)
	if err != nil {
		return Keys{}, fmt.Errorf("read the keys of role %s: %w", role, err)
	}
	return keys, nil
}

func decodeRoleKeys(body []byte) (Keys, error) {
	var wire struct {
		Code            looseString
		AccessKeyID     string `json:"AccessKeyId"`
		AccessKeySecret string
		SecurityToken   string
		Expiration      time.Time
	}
	if err := json.Unmarshal(body, &wire); err != nil {
		return Keys{}, fmt.Errorf("decode: %w", err)
	}
	if wire.Code != "Success" {
		return Keys{}, fmt.Errorf("service says %q: %w", string(wire.Code), ErrForbidden)
	}
	if wire.AccessKeyID == "" || wire.AccessKeySecret == "" || wire.SecurityToken == "" || wire.Expiration.IsZero() {
		return Keys{}, errors.New("a field is missing")
	}
	return Keys{
		AccessKeyID: wire.AccessKeyID, AccessKeySecret: wire.AccessKeySecret,
		SecurityToken: wire.SecurityToken, Expires: wire.Expiration,
	}, nil
}

// metadataValue accepts one short line of printable ASCII. A page of something that is not the metadata service must
// not become an instance ID.
func metadataValue(body []byte) (string, error) {
	v := strings.TrimSuffix(string(body), "\n")
	if v == "" || len(v) > maxValue {
		return "", fmt.Errorf("value has %d bytes, want 1 to %d", len(v), maxValue)
	}
	for i := range len(v) {
		if v[i] <= ' ' || v[i] > '~' || v[i] == '<' {
			return "", fmt.Errorf("value %q is not a plain word", v)
		}
	}
	return v, nil
}

// errStatus is an answer of the metadata service that is no success.
type errStatus struct {
	path   string
	status int
}

func (e *errStatus) Error() string {
	return fmt.Sprintf("metadata %s: status %d", e.path, e.status)
}

func (e *errStatus) Is(target error) bool {
	switch {
	case e.status == http.StatusNotFound:
		return target == ErrNotFound
	case e.status == http.StatusTooManyRequests || e.status >= http.StatusInternalServerError:
		return target == ErrUnavailable
	}
	return target == ErrForbidden
}

// get reads one key, with retries while the service does not answer.
func (m *Metadata) get(ctx context.Context, path string) ([]byte, error) {
	for try := 1; ; try++ {
		body, err := m.getOnce(ctx, path)
		if err == nil || !errors.Is(err, ErrUnavailable) || try == metadataTries || ctx.Err() != nil {
			return body, err
		}
		window := metadataPause << (try - 1)
		if werr := pause(ctx, window/2+rand.N(window/2)); werr != nil {
			return nil, fmt.Errorf("%w, gave up: %w", err, werr)
		}
	}
}

// getOnce renews the token once if the service refuses it.
func (m *Metadata) getOnce(ctx context.Context, path string) ([]byte, error) {
	for renewed := false; ; renewed = true {
		token, err := m.currentToken(ctx)
		if err != nil {
			return nil, err
		}
		body, err := m.do(ctx, http.MethodGet, path, http.Header{tokenHeader: {token}})
		if status, ok := errors.AsType[*errStatus](err); ok && status.status == http.StatusUnauthorized && !renewed {
			m.forgetToken()
			continue
		}
		return body, err
	}
}

// currentToken returns the token to send, empty where the service knows none.
func (m *Metadata) currentToken(ctx context.Context) (string, error) {
	m.mu.Lock()
	token, expires, tokenless := m.token, m.expires, m.tokenless
	m.mu.Unlock()
	if tokenless || token != "" && m.now().Before(expires) {
		return token, nil
	}
	asked := m.now()
	ttl := strconv.Itoa(int(tokenTTL / time.Second))
	body, err := m.do(ctx, http.MethodPut, "api/token", http.Header{tokenTTLHeader: {ttl}})
	if errors.Is(err, ErrNotFound) {
		m.setToken("", time.Time{}, true)
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("get a metadata token: %w", err)
	}
	if token, err = metadataValue(body); err != nil {
		return "", fmt.Errorf("read the metadata token: %w", err)
	}
	m.setToken(token, asked.Add(tokenTTL-tokenRenewal), false)
	return token, nil
}

// forgetToken also ends tokenless mode: a service that answers 401 knows tokens.
func (m *Metadata) forgetToken() { m.setToken("", time.Time{}, false) }

func (m *Metadata) setToken(token string, expires time.Time, tokenless bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.token, m.expires, m.tokenless = token, expires, tokenless
}

func (m *Metadata) do(ctx context.Context, method, path string, header http.Header) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, m.base+"/latest/"+path, nil)
	if err != nil {
		return nil, fmt.Errorf("ask for metadata %s: %w", path, err)
	}
	for k, v := range header {
		if v[0] != "" {
			req.Header[http.CanonicalHeaderKey(k)] = v
		}
	}
	resp, err := m.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask for metadata %s: %w: %w", path, ErrUnavailable, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxMetadata))
	if err != nil {
		return nil, fmt.Errorf("read metadata %s: %w: %w", path, ErrUnavailable, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, &errStatus{path: path, status: resp.StatusCode}
	}
	return body, nil
}

// pause waits for d, or returns the reason why ctx ended first.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
