package aliyun

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"
)

// Environment variables that the ACK pod identity webhook sets (RRSA), and the vendor's tools read.
const (
	envRoleARN     = "ALIBABA_CLOUD_ROLE_ARN"
	envProviderARN = "ALIBABA_CLOUD_OIDC_PROVIDER_ARN"
	envTokenFile   = "ALIBABA_CLOUD_OIDC_TOKEN_FILE" //nolint:gosec // the name of a variable
	envSessionName = "ALIBABA_CLOUD_ROLE_SESSION_NAME"
)

const (
	oidcSession  = time.Hour // the longest a role allows unless it is changed
	maxOIDCToken = 20_000    // characters, STS AssumeRoleWithOIDC
)

// OIDCConfig describes a RAM role that trusts an OIDC provider, and the token that proves who asks.
type OIDCConfig struct {
	RoleARN     string
	ProviderARN string
	// TokenFile is read at every renewal: the kubelet replaces what is in it.
	TokenFile   string
	SessionName string // empty: nearpath
	RegionID    string
	// Endpoint of STS, in the forms of Config.Endpoint; empty means the vendor's of the region.
	Endpoint string
	// Internal and InsecureHTTP are those of Config.
	Internal, InsecureHTTP bool
	Logger                 *slog.Logger // nil: discard
}

// NewOIDCCredentials exchanges a service account's token for keys of a role with AssumeRoleWithOIDC of STS (2015-04-01).
// It makes no call.
func NewOIDCCredentials(cfg OIDCConfig) (*TemporaryCredentials, error) {
	for _, f := range []struct{ name, value string }{
		{"role ARN (" + envRoleARN + ")", cfg.RoleARN}, {"provider ARN (" + envProviderARN + ")", cfg.ProviderARN},
		{"token file (" + envTokenFile + ")", cfg.TokenFile},
	} {
		if f.value == "" {
			return nil, fmt.Errorf("configure OIDC credentials: %s is empty", f.name)
		}
	}
	caller, err := newCaller(Config{RegionID: cfg.RegionID, Credentials: noCredentials{}, Logger: cfg.Logger})
	if err != nil {
		return nil, fmt.Errorf("configure OIDC credentials: %w", err)
	}
	where := location{region: cfg.RegionID, internal: cfg.Internal, insecure: cfg.InsecureHTTP}
	sts := product{name: "Sts", version: "2015-04-01", unsigned: true}
	if sts.scheme, sts.host, err = where.endpoint("sts", cfg.Endpoint); err != nil {
		return nil, fmt.Errorf("configure OIDC credentials: %w", err)
	}
	cfg.SessionName = cmp.Or(cfg.SessionName, "nearpath")
	return newTemporaryCredentials(&oidcSource{caller: caller, sts: sts, cfg: cfg}, cfg.Logger), nil
}

// noCredentials are for requests that need none.
type noCredentials struct{}

// Keys returns none.
func (noCredentials) Keys(context.Context) (Keys, error) { return Keys{}, nil }

type oidcSource struct {
	caller *caller
	sts    product
	cfg    OIDCConfig
}

// String names the role.
func (s *oidcSource) String() string { return "keys of the RAM role " + s.cfg.RoleARN + " by OIDC" }

func (s *oidcSource) fetch(ctx context.Context) (Keys, error) {
	token, err := readOIDCToken(s.cfg.TokenFile)
	if err != nil {
		return Keys{}, err
	}
	p := params{
		"RoleArn": s.cfg.RoleARN, "OIDCProviderArn": s.cfg.ProviderARN, "OIDCToken": token,
		"RoleSessionName": s.cfg.SessionName, "DurationSeconds": strconv.Itoa(int(oidcSession / time.Second)),
	}
	var w wireAssumedRole
	if err := s.caller.call(ctx, request{&s.sts, "AssumeRoleWithOIDC", p, true}, &w); err != nil {
		return Keys{}, err
	}
	return w.keys()
}

func readOIDCToken(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read the OIDC token: %w: %w", ErrForbidden, err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" || len(token) > maxOIDCToken {
		return "", fmt.Errorf("OIDC token in %s has %d characters, want 1 to %d: %w", path, len(token), maxOIDCToken, ErrForbidden)
	}
	return token, nil
}

type wireAssumedRole struct {
	Credentials struct {
		AccessKeyID     string `json:"AccessKeyId"`
		AccessKeySecret string
		SecurityToken   string
		Expiration      time.Time
	}
}

func (w *wireAssumedRole) keys() (Keys, error) {
	c := w.Credentials
	if c.AccessKeyID == "" || c.AccessKeySecret == "" || c.SecurityToken == "" || c.Expiration.IsZero() {
		return Keys{}, errors.New("answer of AssumeRoleWithOIDC lacks a part of the credentials")
	}
	return Keys{
		AccessKeyID: c.AccessKeyID, AccessKeySecret: c.AccessKeySecret, SecurityToken: c.SecurityToken, Expires: c.Expiration,
	}, nil
}
