package aliyun

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// renewal is how long before their expiry keys are renewed, at most: the metadata service publishes new ones half an
	// hour before. Short-lived keys are renewed in the last quarter of their life.
	renewal = 15 * time.Minute
	// renewalRetry is the pause after a failed renewal, while the old keys still work.
	renewalRetry = 30 * time.Second
	// dropPause is how long keys are used after others were dropped, though the cloud refuses them: a source that does not
	// know better, or a cloud that does not know its own keys yet, must not be asked at every call.
	dropPause = time.Minute
)

// A keySource fetches temporary keys, each time new ones or the same as long as they are good.
type keySource interface {
	fetch(ctx context.Context) (Keys, error)
	String() string // what is fetched from where, for errors and logs
}

// TemporaryCredentials are keys that are renewed before they expire. While a renewal fails or is under way, the old
// ones serve until their end.
type TemporaryCredentials struct {
	source keySource
	log    *slog.Logger
	now    func() time.Time

	renewing chan struct{} // holds a token while one caller renews

	mu      sync.Mutex // guards the fields below
	keys    Keys
	renew   time.Time // when to renew next
	dropped time.Time // when keys were dropped last
}

func newTemporaryCredentials(source keySource, log *slog.Logger) *TemporaryCredentials {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &TemporaryCredentials{source: source, log: log, now: time.Now, renewing: make(chan struct{}, 1)}
}

// Keys returns keys that are valid now.
func (t *TemporaryCredentials) Keys(ctx context.Context) (Keys, error) {
	keys, due := t.current()
	if !due {
		return keys, nil
	}
	usable := t.now().Before(keys.Expires)
	if !t.enter(ctx, usable) {
		if usable {
			return keys, nil
		}
		return Keys{}, fmt.Errorf("wait for %s: %w", t.source, context.Cause(ctx))
	}
	defer func() { <-t.renewing }()
	if keys, due = t.current(); !due { // renewed by another caller meanwhile
		return keys, nil
	}
	fresh, err := t.fetch(ctx)
	if err == nil {
		return fresh, nil
	}
	if usable {
		t.log.Warn("renewal of cloud keys failed", "err", err, "expires", keys.Expires)
		t.postpone()
		return keys, nil
	}
	return Keys{}, err
}

func (t *TemporaryCredentials) current() (keys Keys, due bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.keys, !t.now().Before(t.renew)
}

// drop forgets keys that the cloud does not take any more, as when their role was changed, so that the next call fetches new
// ones. Keys that have been replaced meanwhile stay.
func (t *TemporaryCredentials) drop(keyID string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	if t.keys.AccessKeyID != keyID || keyID == "" || now.Before(t.dropped.Add(dropPause)) {
		return
	}
	t.keys, t.renew, t.dropped = Keys{}, time.Time{}, now
	t.log.Warn("cloud keys were refused before their end and are fetched anew", "key", keyID)
}

// enter makes the caller the one that renews. A caller with usable keys does not wait for another's renewal.
func (t *TemporaryCredentials) enter(ctx context.Context, usable bool) bool {
	select {
	case t.renewing <- struct{}{}:
		return true
	default:
	}
	if usable {
		return false
	}
	select {
	case t.renewing <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (t *TemporaryCredentials) fetch(ctx context.Context) (Keys, error) {
	keys, err := t.source.fetch(ctx)
	if err != nil {
		return Keys{}, fmt.Errorf("get %s: %w", t.source, err)
	}
	left := keys.Expires.Sub(t.now())
	if left <= 0 {
		return Keys{}, fmt.Errorf("get %s: keys expired at %s: %w", t.source, keys.Expires.Format(time.RFC3339), ErrForbidden)
	}
	early := min(renewal, left/4)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.keys = keys
	t.renew = keys.Expires.Add(-early - rand.N(early/5+1)) // the jitter keeps the nodes of a cluster apart
	return keys, nil
}

func (t *TemporaryCredentials) postpone() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.renew = t.now().Add(renewalRetry)
}

// A roleSource is the RAM role of the instance.
type roleSource struct {
	metadata *Metadata
	role     string // empty: the one that is attached
}

// NewRoleCredentials uses the RAM role of the instance, by the metadata service: the given one, or the one that is
// attached to the instance when role is empty. A nil log discards.
func NewRoleCredentials(m *Metadata, role string, log *slog.Logger) *TemporaryCredentials {
	return newTemporaryCredentials(&roleSource{m, role}, log)
}

// String names the role.
func (s *roleSource) String() string {
	if s.role == "" {
		return "keys of the instance's RAM role"
	}
	return "keys of the RAM role " + s.role
}

func (s *roleSource) fetch(ctx context.Context) (Keys, error) {
	role := s.role
	if role == "" {
		var err error
		if role, err = s.metadata.Role(ctx); err != nil {
			return Keys{}, notAttached(err)
		}
	}
	keys, err := s.metadata.RoleKeys(ctx, role)
	return keys, notAttached(err)
}

// notAttached says what is missing. ErrNotFound must not come out of credentials: a caller would take it for the
// absence of what it asked for with them.
func notAttached(err error) error {
	if errors.Is(err, ErrNotFound) {
		return fmt.Errorf("the role is not attached to the instance (attach it, or configure other credentials): %w", ErrForbidden)
	}
	return err
}
