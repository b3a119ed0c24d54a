package aliyun

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
)

// CredentialConfig says where keys may come from.
type CredentialConfig struct {
	// AccessKeyID and AccessKeySecret, with the SecurityToken of temporary keys, are used when set.
	AccessKeyID, AccessKeySecret, SecurityToken string
	// File is a credential file; see FileCredentials.
	File string
	// Getenv reads the environment for a service account's role (RRSA); nil means os.Getenv.
	Getenv func(string) string
	// RegionID, STSEndpoint, Internal and InsecureHTTP are for STS; see OIDCConfig.
	RegionID, STSEndpoint  string
	Internal, InsecureHTTP bool
	// Metadata gives the keys of the instance's RAM role; nil: there is no instance.
	Metadata *Metadata
	Role     string       // empty: the one that is attached
	Logger   *slog.Logger // nil: discard
}

// ChooseCredentials takes the first that is configured of: the keys given, the credential file, a service account's role
// by the ALIBABA_CLOUD_* variables, and the instance's RAM role. The second result says which, for the log. What is
// configured in part is an error and never passed over: the next in line may have other rights. It makes no call.
func ChooseCredentials(cfg CredentialConfig) (Credentials, string, error) {
	getenv := cfg.Getenv
	if getenv == nil {
		getenv = os.Getenv
	}
	switch {
	case cfg.AccessKeyID != "" || cfg.AccessKeySecret != "":
		keys := StaticCredentials{AccessKeyID: cfg.AccessKeyID, AccessKeySecret: cfg.AccessKeySecret, SecurityToken: cfg.SecurityToken}
		if cfg.AccessKeyID == "" || cfg.AccessKeySecret == "" {
			return nil, "", errors.New("choose credentials: an access key needs both its ID and its secret")
		}
		return keys, "access key " + cfg.AccessKeyID, nil
	case cfg.File != "":
		file, err := NewFileCredentials(cfg.File, getenv(envProfile), cfg.Logger)
		if err != nil {
			return nil, "", fmt.Errorf("choose credentials: %w", err)
		}
		return file, "credential file " + cfg.File, nil
	case getenv(envProviderARN) != "" || getenv(envTokenFile) != "":
		role := OIDCConfig{
			RoleARN: getenv(envRoleARN), ProviderARN: getenv(envProviderARN), TokenFile: getenv(envTokenFile),
			SessionName: getenv(envSessionName), RegionID: cfg.RegionID, Endpoint: cfg.STSEndpoint, Internal: cfg.Internal,
			InsecureHTTP: cfg.InsecureHTTP, Logger: cfg.Logger,
		}
		creds, err := NewOIDCCredentials(role)
		if err != nil {
			return nil, "", fmt.Errorf("choose credentials: %w", err)
		}
		return creds, "RAM role " + role.RoleARN + " by OIDC", nil
	case cfg.Metadata != nil:
		creds := NewRoleCredentials(cfg.Metadata, cfg.Role, cfg.Logger)
		return creds, strings.TrimSpace("instance's RAM role " + cfg.Role), nil
	}
	return nil, "", errors.New("choose credentials: none are configured")
}
