package sim

import (
	"crypto/hmac"
	"crypto/sha1" // the algorithm of the API's signature version 1.0
	"encoding/base64"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// clockSkew is how far a time stamp may be from now unless configured; a nonce is remembered for as long as its time stamp may be valid.
const clockSkew = 15 * time.Minute

const timestampFormat = "2006-01-02T15:04:05Z"

// authenticate checks key, time, signature and nonce, in that order. A request with an Authorization header is signed as
// ACS3 says, any other as version 1.0 does.
func (c *Cloud) authenticate(r *http.Request, in input) error {
	if in.signedByHeader() {
		return c.authenticateHeader(r, in)
	}
	for _, name := range []string{"Action", "Version", "AccessKeyId", "Timestamp", "SignatureNonce"} {
		if _, err := in.need(name); err != nil {
			return err
		}
	}
	if f := in.text("Format"); f != "JSON" {
		return refuse(codeUnsupportedParameter, "The format %q is not supported.", f)
	}
	if in.text("Signature") == "" || in.text("SignatureMethod") != "HMAC-SHA1" || in.text("SignatureVersion") != "1.0" {
		return errIncomplete()
	}
	secret, err := c.secret(in, in.text("Timestamp"))
	if err != nil {
		return err
	}
	toSign := stringToSign(r.Method, in)
	if !hmac.Equal([]byte(sign(toSign, secret)), []byte(in.text("Signature"))) {
		// The SDK looks for exactly this text and compares what follows with what it signed.
		return refuse(codeBadSignature, "Specified signature is not matched with our calculation. server string to sign is:%s", toSign)
	}
	return c.useNonce(in, in.text("SignatureNonce"))
}

func errIncomplete() error {
	return refuse(codeIncompleteSignature, "The request signature does not conform to Aliyun standards.")
}

// useNonce is the last step, so that a request with a bad signature does not use its nonce up.
func (c *Cloud) useNonce(in input, nonce string) error {
	now := c.cfg.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.nonces.add(in.text("AccessKeyId")+"/"+nonce, now) {
		return refuse(codeNonceUsed, "Specified signature nonce was used already.")
	}
	return nil
}

// secret finds the secret of the key and checks the time of the request.
func (c *Cloud) secret(in input, timestamp string) (string, error) {
	now := c.cfg.Now()
	secret, err := c.secretOf(in, now)
	if err != nil {
		return "", err
	}
	stamp, err := time.Parse(timestampFormat, timestamp)
	if err != nil {
		return "", refuse(codeTimeFormat, "The specified time stamp %q is not valid.", timestamp)
	}
	if c.cfg.ClockSkew >= 0 && now.Sub(stamp).Abs() > c.cfg.ClockSkew {
		return "", refuse(codeTimeExpired, "The specified time stamp or date value is expired.")
	}
	return secret, nil
}

// secretOf finds the secret of a long-lived or temporary key.
func (c *Cloud) secretOf(in input, now time.Time) (string, error) {
	id, token := in.text("AccessKeyId"), in.text("SecurityToken")
	if secret, ok := c.cfg.AccessKeys[id]; ok {
		return secret, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.sessions[id]
	switch {
	case s == nil:
		return "", refuse(codeInvalidAccessKey, "Specified access key is not found.")
	case token == "":
		return "", refuse(codeMissingToken, "SecurityToken is required for this request.")
	case token != s.token:
		return "", refuse(codeTokenMismatch, "Specified SecurityToken does not match the access key.")
	case !now.Before(s.expires):
		return "", refuse(codeTokenExpired, "Specified SecurityToken is expired.")
	}
	return s.secret, nil
}

// stringToSign covers every parameter but the signature.
func stringToSign(method string, in input) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(in)) {
		if k == "Signature" {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('&')
		}
		b.WriteString(percentEncode(k) + "=" + percentEncode(in[k]))
	}
	return method + "&%2F&" + percentEncode(b.String())
}

func sign(toSign, secret string) string {
	mac := hmac.New(sha1.New, []byte(secret+"&"))
	mac.Write([]byte(toSign))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// percentEncode is RFC 3986, section 2: everything but the unreserved characters.
func percentEncode(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-_.~", c) >= 0:
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		}
	}
	return b.String()
}

// A nonceTable remembers nonces for as long as a replay could pass the time check.
type nonceTable struct {
	seen  map[string]struct{}
	order []usedNonce // oldest first
}

type usedNonce struct {
	nonce string
	at    time.Time
}

// add reports whether the nonce is new.
func (t *nonceTable) add(nonce string, now time.Time) bool {
	for len(t.order) > 0 && now.Sub(t.order[0].at) > 2*clockSkew {
		delete(t.seen, t.order[0].nonce)
		t.order = t.order[1:]
	}
	if _, used := t.seen[nonce]; used {
		return false
	}
	t.seen[nonce] = struct{}{}
	t.order = append(t.order, usedNonce{nonce, now})
	return true
}
