package aliyun

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
)

// envProfile names the profile of a credential file, as the vendor's tools have it.
const envProfile = "ALIBABA_CLOUD_PROFILE"

// FileCredentials are keys in a file, which is read again for every request: whoever rotates keys only replaces it. It
// is a JSON object with accessKeyID, accessKeySecret and, for temporary keys, securityToken and expiration (RFC 3339);
// or the profile file of the vendor's tools (~/.alibabacloud/credentials). While the file cannot be read, the keys it
// had serve as long as they last.
type FileCredentials struct {
	path, profile string
	log           *slog.Logger
	now           func() time.Time

	mu   sync.Mutex // guards the fields below; not held while reading the file
	last Keys
	said string // last problem that was logged
}

// NewFileCredentials reads the file, so that one that is not good is known at once. The profile is for files with
// several; empty means "default". A nil log discards.
func NewFileCredentials(path, profile string, log *slog.Logger) (*FileCredentials, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	f := &FileCredentials{path: path, profile: cmp.Or(profile, "default"), log: log, now: time.Now}
	_, err := f.Keys(context.Background())
	return f, err
}

// Keys returns the keys in the file.
func (f *FileCredentials) Keys(context.Context) (Keys, error) {
	keys, err := f.read()
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		f.last, f.said = keys, ""
		return keys, nil
	}
	if f.last.AccessKeyID == "" || f.expired(f.last) {
		return Keys{}, err
	}
	if f.said != err.Error() {
		f.said = err.Error()
		f.log.Warn("credential file is not good, earlier keys serve", "err", err)
	}
	return f.last, nil
}

func (f *FileCredentials) expired(k Keys) bool {
	return !k.Expires.IsZero() && !f.now().Before(k.Expires)
}

func (f *FileCredentials) read() (Keys, error) {
	text, err := os.ReadFile(f.path)
	if err != nil {
		return Keys{}, fmt.Errorf("read the credential file: %w: %w", ErrForbidden, err)
	}
	keys, err := parseCredentialFile(text, f.profile)
	if err != nil {
		return Keys{}, fmt.Errorf("read the credential file %s: %w: %w", f.path, ErrForbidden, err)
	}
	if f.expired(keys) {
		return Keys{}, fmt.Errorf("keys in the credential file %s expired at %s: %w", f.path, keys.Expires.Format(time.RFC3339), ErrForbidden)
	}
	return keys, nil
}

// parseCredentialFile never puts what it reads into an error: it may be a secret.
func parseCredentialFile(text []byte, profile string) (Keys, error) {
	var keys Keys
	var err error
	if text = bytes.TrimSpace(text); len(text) > 0 && text[0] == '{' {
		keys, err = parseCredentialJSON(text)
	} else {
		keys, err = parseCredentialProfile(string(text), profile)
	}
	if err != nil {
		return Keys{}, err
	}
	if keys.AccessKeyID == "" || keys.AccessKeySecret == "" {
		return Keys{}, errors.New("access key ID or secret is missing")
	}
	return keys, nil
}

func parseCredentialJSON(text []byte) (Keys, error) {
	var file struct {
		AccessKeyID     string `json:"accessKeyID"`
		AccessKeySecret string `json:"accessKeySecret"`
		SecurityToken   string `json:"securityToken"`
		Expiration      string `json:"expiration"`

		Keyring  *json.RawMessage `json:"keyring"`
		Profiles *json.RawMessage `json:"profiles"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return Keys{}, errors.New("it is not a JSON object of strings")
	}
	if file.Keyring != nil {
		return Keys{}, errors.New("it is an addon token of ACK, whose keys are encrypted, which is not supported: use RRSA or the instance's RAM role")
	}
	if file.Profiles != nil {
		return Keys{}, errors.New("it is the configuration of the aliyun command, which is not supported: write accessKeyID and accessKeySecret")
	}
	keys := Keys{AccessKeyID: file.AccessKeyID, AccessKeySecret: file.AccessKeySecret, SecurityToken: file.SecurityToken}
	if file.Expiration != "" {
		end, err := time.Parse(time.RFC3339, file.Expiration)
		if err != nil {
			return Keys{}, errors.New("expiration is not a time such as 2026-01-02T15:04:05Z")
		}
		keys.Expires = end
	}
	return keys, nil
}

// parseCredentialProfile reads one section of an INI file. Its type must be one that holds keys: the others say where
// to get keys, and are configured here by other means.
func parseCredentialProfile(text, profile string) (Keys, error) {
	values, found, err := iniSection(text, profile)
	if err != nil {
		return Keys{}, err
	}
	if !found {
		return Keys{}, fmt.Errorf("it has no profile [%s]: name another with %s", profile, envProfile)
	}
	keys := Keys{AccessKeyID: values["access_key_id"], AccessKeySecret: values["access_key_secret"]}
	switch values["type"] {
	case "access_key":
	case "sts":
		if keys.SecurityToken = values["security_token"]; keys.SecurityToken == "" {
			return Keys{}, fmt.Errorf("profile [%s] of type sts lacks security_token", profile)
		}
	default:
		return Keys{}, fmt.Errorf("profile [%s] has a type other than access_key and sts", profile)
	}
	return keys, nil
}

func iniSection(text, section string) (values map[string]string, found bool, err error) {
	values = map[string]string{}
	inside := false
	for n, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		switch {
		case line == "", line[0] == '#', line[0] == ';':
		case line[0] == '[' && line[len(line)-1] == ']':
			inside = strings.TrimSpace(line[1:len(line)-1]) == section
			found = found || inside
		default:
			key, value, ok := strings.Cut(line, "=")
			if !ok {
				return nil, false, fmt.Errorf("line %d is neither a [section] nor key = value", n+1)
			}
			if inside {
				values[strings.TrimSpace(key)] = strings.TrimSpace(value)
			}
		}
	}
	return values, found, nil
}
