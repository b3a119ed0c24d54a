package aliyun

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/auth"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/auth/credentials"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
)

const (
	connectTimeout = 5 * time.Second
	// attemptTimeout covers the slowest calls, which the SDK's own table gives 17 s.
	attemptTimeout = 20 * time.Second
)

var regionPattern = regexp.MustCompile(`^[a-zA-Z0-9_-]+$`) // what the SDK accepts

// A product is an API of the cloud behind one endpoint.
type product struct {
	name    string
	version string
	scheme  string // requests.HTTP or requests.HTTPS
	host    string // host or host:port
}

// A request is one action of a product. Params hold neither empty values nor the common parameters.
type request struct {
	product *product
	action  string
	params  params
	// repeatable says that sending it twice changes nothing more than sending it once: a read, or a change under a
	// client token.
	repeatable bool
}

// A caller sends requests through the SDK. It is safe for concurrent use.
type caller struct {
	region    string
	creds     Credentials
	transport http.RoundTripper
	log       *slog.Logger
	backoff   backoff
}

func newCaller(region string, creds Credentials, log *slog.Logger) (*caller, error) {
	if !regionPattern.MatchString(region) {
		return nil, fmt.Errorf("region %q is not a region ID", region)
	}
	if creds == nil {
		return nil, errors.New("credentials are missing")
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &caller{region: region, creds: creds, transport: newTransport(), log: log, backoff: defaultBackoff()}, nil
}

// newTransport is the one connection pool under all attempts.
func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: connectTimeout}).DialContext,
		TLSHandshakeTimeout:   connectTimeout,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   8,
		IdleConnTimeout:       60 * time.Second,
		ResponseHeaderTimeout: attemptTimeout,
	}
}

// call sends the request until it is answered, refused for good, or tried often enough, and decodes the answer.
func (c *caller) call(ctx context.Context, req request, answer any) error {
	for try := 1; ; try++ {
		body, err := c.attempt(ctx, req)
		if err == nil {
			if err = json.Unmarshal(body, answer); err != nil {
				return fmt.Errorf("decode the answer of %s: %w", req.action, err)
			}
			return nil
		}
		if ctx.Err() != nil || !c.backoff.again(try, req, err) {
			return err
		}
		delay := c.backoff.delay(try, err)
		c.log.Debug("cloud call is repeated", "op", req.action, "err", err, "duration", delay)
		if werr := pause(ctx, delay); werr != nil {
			return fmt.Errorf("%w, gave up: %w", err, werr)
		}
	}
}

// attempt sends the request once. The answer is taken from the exchange, never from the SDK, whose reading of it may
// panic.
func (c *caller) attempt(ctx context.Context, req request) ([]byte, error) {
	keys, err := c.creds.Keys(ctx)
	if err != nil {
		return nil, fmt.Errorf("get credentials for %s: %w", req.action, err)
	}
	limited, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	ex := &exchange{ctx: limited, next: c.transport}
	err = c.send(ex, keys, req)
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s: %w", req.action, context.Cause(ctx))
	case ex.status == 0:
		return nil, &transportError{action: req.action, sent: ex.sent && !isDialError(err), err: err}
	case ex.status/100 != 2:
		return nil, decodeError(req.action, ex.status, ex.body)
	}
	return ex.body, nil
}

// send drives the SDK with a client of its own, so that nothing it changes is shared.
func (c *caller) send(ex *exchange, keys Keys, req request) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("SDK panicked: %v", p)
		}
	}()
	client, err := sdk.NewClientWithOptions(c.region, &sdk.Config{Transport: ex, UserAgent: "nearpath"}, credential(keys))
	if err != nil {
		return fmt.Errorf("make an SDK client: %w", err)
	}
	client.SetReadTimeout(attemptTimeout)
	client.SetConnectTimeout(connectTimeout)
	client.SetCloseTrace(true)
	// The proxy is the transport's affair. The SDK would compile NO_PROXY as regular expressions and fail on some.
	client.SetNoProxy("^$")

	r := requests.NewCommonRequest()
	r.Method = requests.POST
	r.Scheme = req.product.scheme
	r.Domain = req.product.host
	r.Product = req.product.name
	r.Version = req.product.version
	r.ApiName = req.action
	maps.Copy(r.QueryParams, req.params)
	_, err = client.ProcessCommonRequest(r)
	return err
}

func credential(k Keys) auth.Credential {
	if k.SecurityToken == "" {
		return &credentials.AccessKeyCredential{AccessKeyId: k.AccessKeyID, AccessKeySecret: k.AccessKeySecret}
	}
	return &credentials.StsTokenCredential{
		AccessKeyId: k.AccessKeyID, AccessKeySecret: k.AccessKeySecret, AccessKeyStsToken: k.SecurityToken,
	}
}

// A transportError is an attempt without an answer.
type transportError struct {
	action string
	sent   bool // the request may have reached the cloud
	err    error
}

// Error leaves out the URL, which carries the key ID and the signature.
func (e *transportError) Error() string {
	return fmt.Sprintf("%s: %v: %v", e.action, ErrUnavailable, e.cause())
}

// Unwrap makes the error match ErrUnavailable and its cause.
func (e *transportError) Unwrap() []error { return []error{ErrUnavailable, e.cause()} }

func (e *transportError) cause() error {
	if u, ok := errors.AsType[*url.Error](e.err); ok {
		return u.Err
	}
	if e.err == nil {
		return errors.New("no answer")
	}
	return e.err
}

// isDialError reports that no connection was made, so nothing was sent.
func isDialError(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

// A backoff decides whether and when an attempt is repeated.
type backoff struct {
	tries    int
	throttle time.Duration // first window after throttling; doubles
	fault    time.Duration // first window after a failure; doubles
	limit    time.Duration // largest window
}

func defaultBackoff() backoff {
	return backoff{tries: 6, throttle: time.Second, fault: 200 * time.Millisecond, limit: 32 * time.Second}
}

// again reports whether the attempt may be repeated. A refusal that did nothing always may; an attempt whose effect is
// unknown only if its request is repeatable.
func (b backoff) again(try int, req request, err error) bool {
	if try >= b.tries {
		return false
	}
	if errors.Is(err, ErrThrottled) || hasCode(err, codeOperationConflict) {
		return true
	}
	if t, ok := errors.AsType[*transportError](err); ok && !t.sent {
		return true
	}
	return req.repeatable && errors.Is(err, ErrUnavailable)
}

// delay is drawn from the whole window ("full jitter"), so that nodes that were refused together come back apart.
func (b backoff) delay(try int, err error) time.Duration {
	window := b.fault
	if errors.Is(err, ErrThrottled) {
		window = b.throttle
	}
	window = min(window<<min(try-1, 16), b.limit) // 16: far past the limit, and no overflow
	return rand.N(window) + 1
}

// params are the parameters of a request.
type params map[string]string

// set leaves out empty values, as the API wants it.
func (p params) set(key, value string) {
	if value != "" {
		p[key] = value
	}
}

// count leaves out zero.
func (p params) count(key string, n int) {
	if n != 0 {
		p[key] = strconv.Itoa(n)
	}
}

// list adds key.1, key.2 and so on.
func (p params) list(key string, values []string) {
	for i, v := range values {
		p.set(key+"."+strconv.Itoa(i+1), v)
	}
}

// tags adds Tag.1.Key, Tag.1.Value and so on, in the order of the keys: one set of tags always gives one request, which
// client tokens rely on.
func (p params) tags(tags map[string]string) {
	for i, k := range sortedKeys(tags) {
		prefix := "Tag." + strconv.Itoa(i+1)
		p.set(prefix+".Key", k)
		p.set(prefix+".Value", tags[k])
	}
}

// parseEndpoint returns scheme and host. Plain HTTP is for loopback and for endpoints that ask for it by name.
func parseEndpoint(endpoint string) (scheme, host string, err error) {
	scheme, host, found := strings.Cut(endpoint, "://")
	if !found {
		scheme, host = "", endpoint
	}
	host = strings.TrimSuffix(host, "/")
	u, err := url.Parse("https://" + host) // stricter about ports than without a scheme
	if err != nil || u.Host != host || u.Hostname() == "" {
		return "", "", fmt.Errorf("endpoint %q is not host, host:port or a URL without a path", endpoint)
	}
	switch scheme {
	case "http":
		return requests.HTTP, host, nil
	case "https":
		return requests.HTTPS, host, nil
	case "":
		if isLoopback(u.Hostname()) {
			return requests.HTTP, host, nil
		}
		return requests.HTTPS, host, nil
	}
	return "", "", fmt.Errorf("endpoint %q has the scheme %q, want http or https", endpoint, scheme)
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}
