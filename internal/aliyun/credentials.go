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

// Keys sign one request. They print without their secrets.
type Keys struct {
	AccessKeyID     string
	AccessKeySecret string
	SecurityToken   string    // empty for long-lived keys
	Expires         time.Time // zero: never
}

// String names the key and hides the secrets.
func (k Keys) String() string { return k.AccessKeyID }

// GoString hides the secrets from %#v too.
func (k Keys) GoString() string { return "aliyun.Keys{" + k.AccessKeyID + "}" }

// LogValue hides the secrets from slog.
func (k Keys) LogValue() slog.Value { return slog.StringValue(k.AccessKeyID) }

// Credentials give the keys for a request. Implementations are safe for concurrent use and may block while they
// fetch keys.
type Credentials interface {
	Keys(ctx context.Context) (Keys, error)
}

// StaticCredentials are keys that never change.
type StaticCredentials Keys

// Keys returns the keys, or an error that wraps ErrForbidden when a part is missing.
func (s StaticCredentials) Keys(context.Context) (Keys, error) {
	if s.AccessKeyID == "" || s.AccessKeySecret == "" {
		return Keys{}, fmt.Errorf("static credentials lack the key ID or the secret: %w", ErrForbidden)
	}
	return Keys(s), nil
}

// String hides the secrets.
func (s StaticCredentials) String() string { return Keys(s).String() }

// GoString hides the secrets.
func (s StaticCredentials) GoString() string { return Keys(s).GoString() }

// LogValue hides the secrets.
func (s StaticCredentials) LogValue() slog.Value { return Keys(s).LogValue() }

const (
	// roleRenewal is how long before their expiry the keys of a role are renewed; the metadata service publishes new
	// ones half an hour before. The jitter keeps the nodes of a cluster apart.
	roleRenewal       = 15 * time.Minute
	roleRenewalJitter = 3 * time.Minute
	// roleRetry is the pause after a failed renewal, while the old keys still work.
	roleRetry = 30 * time.Second
)

// RoleCredentials are the keys of the RAM role of the instance, from the metadata service. They are renewed before
// they expire; while a renewal fails or is under way, the old ones serve until their end.
type RoleCredentials struct {
	metadata *Metadata
	role     string
	log      *slog.Logger
	now      func() time.Time

	renewing chan struct{} // holds a token while one caller renews

	mu    sync.Mutex // guards the fields below
	keys  Keys
	renew time.Time // when to renew next
}

// NewRoleCredentials uses the given role, or the one that is attached to the instance when role is empty.
func NewRoleCredentials(m *Metadata, role string, log *slog.Logger) *RoleCredentials {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &RoleCredentials{metadata: m, role: role, log: log, now: time.Now, renewing: make(chan struct{}, 1)}
}

// Keys returns keys that are valid now. Errors match ErrForbidden when the instance has no role and ErrUnavailable
// when the metadata service does not answer.
func (r *RoleCredentials) Keys(ctx context.Context) (Keys, error) {
	keys, due := r.current()
	if !due {
		return keys, nil
	}
	usable := r.now().Before(keys.Expires)
	if !r.enter(ctx, usable) {
		if usable {
			return keys, nil
		}
		return Keys{}, fmt.Errorf("wait for the keys of the instance role: %w", context.Cause(ctx))
	}
	defer func() { <-r.renewing }()
	if keys, due = r.current(); !due { // renewed by another caller meanwhile
		return keys, nil
	}
	fresh, err := r.fetch(ctx)
	if err == nil {
		return fresh, nil
	}
	if usable {
		r.log.Warn("renewal of role keys failed", "err", err, "expires", keys.Expires)
		r.postpone()
		return keys, nil
	}
	return Keys{}, err
}

func (r *RoleCredentials) current() (keys Keys, due bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.keys, !r.now().Before(r.renew)
}

// enter makes the caller the one that renews. A caller with usable keys does not wait for another's renewal.
func (r *RoleCredentials) enter(ctx context.Context, usable bool) bool {
	select {
	case r.renewing <- struct{}{}:
		return true
	default:
	}
	if usable {
		return false
	}
	select {
	case r.renewing <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (r *RoleCredentials) fetch(ctx context.Context) (Keys, error) {
	role := r.role
	if role == "" {
		var err error
		if role, err = r.metadata.Role(ctx); errors.Is(err, ErrNotFound) {
			return Keys{}, fmt.Errorf("instance has no RAM role: %w", ErrForbidden)
		} else if err != nil {
			return Keys{}, err
		}
	}
	keys, err := r.metadata.RoleKeys(ctx, role)
	if err != nil {
		return Keys{}, err
	}
	if !r.now().Before(keys.Expires) {
		return Keys{}, fmt.Errorf("keys of role %s expired at %s: %w", role, keys.Expires, ErrForbidden)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys = keys
	r.renew = keys.Expires.Add(-roleRenewal - rand.N(roleRenewalJitter))
	return keys, nil
}

func (r *RoleCredentials) postpone() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.renew = r.now().Add(roleRetry)
}
