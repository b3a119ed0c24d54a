package aliyun

import (
	"context"
	"fmt"
	"log/slog"
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
// fetch keys. Their errors match ErrUnavailable when trying again may help and ErrForbidden otherwise.
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
