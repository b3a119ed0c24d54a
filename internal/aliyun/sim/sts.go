package sim

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"regexp"
	"strings"
	"time"
)

const stsVersion = "2015-04-01"

// Error codes of STS, with the statuses they come with.
const (
	codeNoPermission     = "AuthenticationFail.NoPermission"
	codeOIDCTokenInvalid = "AuthenticationFail.OIDCToken.Invalid" //nolint:gosec // an error code
	codeOIDCTokenExpired = "AuthenticationFail.OIDCToken.Expired" //nolint:gosec // an error code
	codeNoRole           = "EntityNotExist.Role"
	codeSessionName      = "InvalidParameter.RoleSessionName"
	codeSessionLife      = "InvalidParameter.DurationSeconds"
)

// An OIDCTrust is a RAM role that whoever has a token of an OIDC provider may assume.
type OIDCTrust struct {
	RoleARN     string // empty: there is no such role
	ProviderARN string
	// Token is the one that is accepted; empty: any that is well-formed and has not expired. Signatures are not checked.
	Token string
}

var (
	assumeRoleParams   = []string{"RoleArn", "OIDCProviderArn", "OIDCToken", "RoleSessionName", "DurationSeconds", "Policy"}
	sessionNamePattern = regexp.MustCompile(`^[a-zA-Z0-9.@_-]{2,64}$`)
)

// handleSTS serves the one action of STS that there is. It is not signed: the token proves who asks.
func (c *Cloud) handleSTS(ctx context.Context, in input, call *Call) (answer object, lost bool, err error) {
	if in.text("Action") != assumeRoleAction {
		return nil, false, refuse(codeInvalidAction, "The specified API action %q is not found in version %q.", in.text("Action"), stsVersion)
	}
	if f := in.text("Format"); f != "JSON" {
		return nil, false, refuse(codeUnsupportedParameter, "The format %q is not supported.", f)
	}
	if err := in.only(assumeRoleParams); err != nil {
		return nil, false, err
	}
	return c.perform(ctx, action{params: assumeRoleParams, serve: (*Cloud).assumeRole}, in, call)
}

func (c *Cloud) assumeRole(in input) (object, error) {
	for _, name := range []string{"RoleArn", "OIDCProviderArn", "OIDCToken", "RoleSessionName", "Timestamp"} {
		if _, err := in.need(name); err != nil {
			return nil, err
		}
	}
	if !sessionNamePattern.MatchString(in.text("RoleSessionName")) {
		return nil, refuse(codeSessionName, "The parameter RoleSessionName is wrongly formed.")
	}
	life, err := in.number("DurationSeconds", 3600, 3600)
	if err != nil || life < 900 {
		return nil, refuse(codeSessionLife, "The Min/Max value of DurationSeconds is 15min/1hr.")
	}
	now := c.cfg.Now()
	if err := c.checkTrust(in, now); err != nil {
		return nil, err
	}
	s := &session{
		id: "STS." + rand.Text(), secret: rand.Text(), token: rand.Text(), made: now, expires: now.Add(time.Duration(life) * time.Second),
	}
	c.mu.Lock()
	maps.DeleteFunc(c.sessions, func(_ string, s *session) bool { return !now.Before(s.expires) })
	c.sessions[s.id] = s
	c.mu.Unlock()
	return object{
		"Credentials": object{
			"AccessKeyId": s.id, "AccessKeySecret": s.secret, "SecurityToken": s.token,
			"Expiration": s.expires.UTC().Format(timestampFormat),
		},
		"AssumedRoleUser": object{
			"Arn":           strings.Replace(in.text("RoleArn"), ":role/", ":assumed-role/", 1) + "/" + in.text("RoleSessionName"),
			"AssumedRoleId": "300000000000000000:" + in.text("RoleSessionName"),
		},
	}, nil
}

func (c *Cloud) checkTrust(in input, now time.Time) error {
	trust := c.cfg.OIDC
	expires, ok := readJWT(in.text("OIDCToken"))
	switch token := in.text("OIDCToken"); {
	case trust.RoleARN == "" || in.text("RoleArn") != trust.RoleARN:
		return &refusal{http.StatusNotFound, codeNoRole, "The specified Role not exists."}
	case in.text("OIDCProviderArn") != trust.ProviderARN:
		return &refusal{http.StatusUnauthorized, codeNoPermission, "No such OIDC Provider registered."}
	case !ok:
		return &refusal{http.StatusUnauthorized, codeOIDCTokenInvalid, "The Jwt content is invalid that cannot be recognized."}
	case !expires.IsZero() && !now.Before(expires):
		return &refusal{http.StatusUnauthorized, codeOIDCTokenExpired, "This JsonWebToken is expired."}
	case trust.Token != "" && subtle.ConstantTimeCompare([]byte(trust.Token), []byte(token)) == 0:
		return &refusal{http.StatusUnauthorized, codeNoPermission, "There is no permission"}
	}
	return nil
}

// readJWT reports whether the text has the form of a JSON Web Token (RFC 7519), and its exp claim.
func readJWT(text string) (expires time.Time, ok bool) {
	parts := strings.Split(text, ".")
	if len(parts) != 3 || parts[2] == "" {
		return time.Time{}, false
	}
	var header struct {
		Alg string `json:"alg"`
	}
	var claims struct {
		Exp int64 `json:"exp"`
	}
	for i, into := range []any{&header, &claims} {
		raw, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil || json.Unmarshal(raw, into) != nil {
			return time.Time{}, false
		}
	}
	if claims.Exp != 0 {
		expires = time.Unix(claims.Exp, 0)
	}
	return expires, header.Alg != ""
}
