package aliyun

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"regexp"
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

const userAgent = "nearpath"

var regionPattern = regexp.MustCompile(`^[a-zA-Z0-9_-]+$`) // what the SDK accepts

// A product is an API of the cloud behind one endpoint.
type product struct {
	name    string
	version string
	scheme  string // requests.HTTP or requests.HTTPS
	host    string // host or host:port
	// unsigned requests prove nothing, or by their parameters.
	unsigned bool
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
	backoff   Backoff
	limits    *limiter
	metrics   *metrics
}

func newCaller(cfg Config) (*caller, error) {
	if !regionPattern.MatchString(cfg.RegionID) {
		return nil, fmt.Errorf("region %q is not a region ID", cfg.RegionID)
	}
	if cfg.Credentials == nil {
		return nil, errors.New("credentials are missing")
	}
	limits, err := newLimiter(cfg.RateLimits)
	if err != nil {
		return nil, err
	}
	c := &caller{
		region: cfg.RegionID, creds: cfg.Credentials, transport: newTransport(), log: cfg.Logger,
		backoff: cfg.Backoff.complete(), limits: limits, metrics: newMetrics(limits),
	}
	if cfg.Transport != nil {
		c.transport = cfg.Transport
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	return c, nil
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

// changes reports whether sending the request may change something. All actions that only read are named alike; an
// unsigned one makes keys, which are nothing that stays.
func (r request) changes() bool {
	return !r.product.unsigned && !strings.HasPrefix(r.action, "Describe")
}

// call sends the request until it is answered, refused for good, or tried often enough, and decodes the answer. When a
// try of a change may have had effect, an error matches ErrUnavailable whatever became of later tries.
func (c *caller) call(ctx context.Context, req request, answer any) error {
	var unclear error
	body, err := c.tries(ctx, req, func(err error) {
		if req.changes() && mayHaveHadEffect(err) {
			unclear = err
		}
	})
	switch {
	case err != nil && unclear != nil:
		return &unclearError{err, unclear}
	case err != nil:
		return err
	}
	if err := json.Unmarshal(body, answer); err != nil {
		return fmt.Errorf("decode the answer of %s: %w", req.action, err)
	}
	return nil
}

// tries sends the request until it is answered, refused for good, or tried often enough, and reports each try that is
// followed by another. Every try waits for a token of its action, so repetitions are within the budget too.
func (c *caller) tries(ctx context.Context, req request, failed func(error)) ([]byte, error) {
	var last error
	turn := turn{c.limits.queue(req.action), c.limits.calls.Add(1)}
	for try := 1; ; try++ {
		body, err := c.inBudget(ctx, req, turn, last)
		if err == nil || ctx.Err() != nil || !c.backoff.again(try, req, err) {
			return body, err
		}
		failed(err)
		delay := c.backoff.delay(try, err)
		c.log.Debug("cloud call is repeated", "op", req.action, "err", err, "duration", delay)
		if werr := pause(ctx, delay); werr != nil {
			return nil, fmt.Errorf("%w, gave up: %w", err, werr)
		}
		last = err
	}
}

// A turn is the place of a call in the queue of its action.
type turn struct {
	queue *queue
	call  uint64
}

// inBudget makes one attempt when its token is there. A request that never got one had no effect, which is what
// ErrThrottled says; after an earlier attempt its error stands.
func (c *caller) inBudget(ctx context.Context, req request, t turn, last error) ([]byte, error) {
	asked := time.Now()
	drawn, werr := t.queue.wait(ctx, t.call)
	c.metrics.waited.WithLabelValues(req.action).Observe(time.Since(asked).Seconds())
	switch {
	case werr != nil && last != nil:
		return nil, fmt.Errorf("%w, gave up: %w", last, werr)
	case werr != nil:
		return nil, fmt.Errorf("wait for the budget of %s: %w: %w", req.action, ErrThrottled, werr)
	}
	body, err := c.attempt(ctx, req)
	if errors.Is(err, ErrThrottled) {
		t.queue.throttled(drawn, time.Now())
	}
	return body, err
}

// attempt sends the request once. The answer is taken from the exchange, never from the SDK, whose reading of it may
// panic.
func (c *caller) attempt(ctx context.Context, req request) ([]byte, error) {
	keys, err := c.creds.Keys(ctx)
	if err != nil {
		return nil, newKeysError(ctx, req.action, err)
	}
	started := time.Now()
	body, err := c.exchange(ctx, keys, req)
	c.metrics.called(req.action, time.Since(started), err)
	if creds, ok := c.creds.(droppable); ok && keysRefused(err) {
		creds.drop(keys.AccessKeyID)
	}
	return body, err
}

// droppable are credentials that can get other keys when the cloud refuses those in use.
type droppable interface{ drop(keyID string) }

// keysRefused reports an answer that says that the keys themselves are not good, whatever they are allowed to do.
func keysRefused(err error) bool {
	api, ok := errors.AsType[*APIError](err)
	return ok && (codeMatches("InvalidSecurityToken*", api.Code) || codeMatches("InvalidAccessKeyId*", api.Code))
}

// exchange takes a whole answer for what it is, also when the context ended just after it came: something may have been made.
func (c *caller) exchange(ctx context.Context, keys Keys, req request) ([]byte, error) {
	limited, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	ex := &exchange{ctx: limited, next: c.transport}
	var err error
	if req.product.unsigned {
		err = sendUnsigned(ex, req)
	} else {
		err = c.send(ex, keys, req)
	}
	switch {
	case ex.status == 0 && ctx.Err() != nil:
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
	client, err := sdk.NewClientWithOptions(c.region, &sdk.Config{Transport: ex, UserAgent: userAgent}, credential(keys))
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

// sendUnsigned makes the same kind of request without the SDK, which signs whatever it sends. The parameters of the
// action go into the body: they hold what proves who asks.
func sendUnsigned(ex *exchange, req request) error {
	common := url.Values{
		"Action": {req.action}, "Version": {req.product.version}, "Format": {"JSON"},
		"Timestamp": {time.Now().UTC().Format("2006-01-02T15:04:05Z")}, "SignatureNonce": {rand.Text()},
	}
	form := url.Values{}
	for k, v := range req.params {
		form.Set(k, v)
	}
	target := url.URL{Scheme: strings.ToLower(req.product.scheme), Host: req.product.host, Path: "/", RawQuery: common.Encode()}
	r, err := http.NewRequestWithContext(ex.ctx, http.MethodPost, target.String(), strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("User-Agent", userAgent)
	_, err = ex.RoundTrip(r)
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

// A keysError is an attempt that was never made, for want of keys. It matches one class and hides the rest: what the
// source of the keys did not find is not what the caller asks for.
type keysError struct {
	action string
	class  error
	err    error
}

func newKeysError(ctx context.Context, action string, err error) *keysError {
	e := &keysError{action: action, class: ErrForbidden, err: err}
	switch {
	case ctx.Err() != nil:
		e.class = context.Cause(ctx)
	case errors.Is(err, ErrUnavailable) || errors.Is(err, ErrThrottled):
		e.class = ErrUnavailable
	}
	return e
}

// Error tells the whole of it.
func (e *keysError) Error() string { return fmt.Sprintf("get credentials for %s: %v", e.action, e.err) }

// Unwrap returns the class.
func (e *keysError) Unwrap() error { return e.class }

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

// mayHaveHadEffect reports that a try failed in a way that does not say whether it did what it was to do.
func mayHaveHadEffect(err error) bool {
	if t, ok := errors.AsType[*transportError](err); ok {
		return t.sent
	}
	return errors.Is(err, ErrUnavailable)
}

// An unclearError is the end of a change of which an earlier try may have had effect. It matches ErrUnavailable, and also
// what the last try says, unless that is ErrThrottled, which promises that nothing was done.
type unclearError struct {
	err     error // of the last try
	earlier error
}

// Error tells of both.
func (e *unclearError) Error() string {
	return fmt.Sprintf("%v (an earlier try may have had effect: %v)", e.err, e.earlier)
}

// Unwrap returns the last try first: its code is what the caller decides by.
func (e *unclearError) Unwrap() []error {
	if errors.Is(e.err, ErrThrottled) {
		return []error{e.earlier}
	}
	return []error{e.err, e.earlier}
}

// isDialError reports that no connection was made, so nothing was sent.
func isDialError(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}
