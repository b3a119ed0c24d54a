package sim

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// acs3 is the algorithm of signature version 3, which newer SDKs use. Action, version, time and nonce are in headers;
// parameters are in the query or a form.
const acs3 = "ACS3-HMAC-SHA256"

// signatureHeader is where an input keeps the Authorization header; no parameter has this name.
const signatureHeader = "\x00Authorization"

// signedByHeader reports whether the request carries an ACS3 signature.
func (in input) signedByHeader() bool { return in[signatureHeader] != "" }

// addHeader takes over what an ACS3 request says in headers.
func (in input) addHeader(h http.Header) error {
	authorization := h.Get("Authorization")
	if authorization == "" {
		return nil
	}
	for name, header := range map[string]string{
		"Action": "X-Acs-Action", "Version": "X-Acs-Version", "SecurityToken": "X-Acs-Security-Token", "Timestamp": "X-Acs-Date",
		"SignatureNonce": "X-Acs-Signature-Nonce",
	} {
		if v := h.Get(header); v != "" {
			in[name] = v
		}
	}
	parts, err := splitAuthorization(authorization)
	if err != nil {
		return err
	}
	in[signatureHeader], in["AccessKeyId"] = authorization, parts.credential
	return nil
}

// An authorization is the parts of the header.
type authorization struct {
	credential string
	headers    []string
	signature  string
}

func splitAuthorization(text string) (authorization, error) {
	algorithm, rest, _ := strings.Cut(text, " ")
	values := map[string]string{}
	for part := range strings.SplitSeq(rest, ",") {
		k, v, _ := strings.Cut(strings.TrimSpace(part), "=")
		values[k] = v
	}
	a := authorization{credential: values["Credential"], signature: values["Signature"]}
	if s := values["SignedHeaders"]; s != "" {
		a.headers = strings.Split(s, ";")
	}
	if algorithm != acs3 || a.credential == "" || a.signature == "" || len(a.headers) == 0 {
		return authorization{}, errIncomplete()
	}
	return a, nil
}

// authenticateHeader checks an ACS3 signature.
func (c *Cloud) authenticateHeader(r *http.Request, in input) error {
	for _, name := range []string{"x-acs-action", "x-acs-version", "x-acs-date", "x-acs-signature-nonce", "x-acs-content-sha256"} {
		if r.Header.Get(name) == "" {
			return missing(name)
		}
	}
	a, err := splitAuthorization(in[signatureHeader])
	if err != nil {
		return err
	}
	for _, name := range headersToSign(r) {
		if !slices.Contains(a.headers, name) {
			return errIncomplete()
		}
	}
	secret, err := c.secret(in, r.Header.Get("X-Acs-Date"))
	if err != nil {
		return err
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return refuse(codeInvalidParameter, "The request cannot be read: %v", err)
	}
	if want := hexSHA256(body); r.Header.Get("X-Acs-Content-Sha256") != want {
		return refuse(codeBadSignature, "Specified x-acs-content-sha256 is not that of the body, which is %s.", want)
	}
	canonical := canonicalRequest(r, a.headers)
	toSign := acs3 + "\n" + hexSHA256([]byte(canonical))
	if !hmac.Equal([]byte(signACS3(toSign, secret)), []byte(a.signature)) {
		return refuse(codeBadSignature, "Specified signature is not matched with our calculation. server string to sign is:%s, canonical request is:%s", toSign, canonical)
	}
	return c.useNonce(in, r.Header.Get("X-Acs-Signature-Nonce"))
}

// headersToSign are the headers of the request that the signature must cover at least.
func headersToSign(r *http.Request) []string {
	names := []string{"host"}
	for name := range r.Header {
		if lower := strings.ToLower(name); strings.HasPrefix(lower, "x-acs-") {
			names = append(names, lower)
		}
	}
	return names
}

// canonicalRequest is what is signed: method, path, query, headers, their names, and the hash of the body.
func canonicalRequest(r *http.Request, headers []string) string {
	var lines strings.Builder
	for _, name := range headers {
		value := strings.Join(r.Header.Values(name), ",")
		if name == "host" {
			value = r.Host
		}
		lines.WriteString(name + ":" + strings.TrimSpace(value) + "\n")
	}
	return strings.Join([]string{
		r.Method, orDefault(r.URL.EscapedPath(), "/"), canonicalQuery(r.URL.Query()), lines.String(), strings.Join(headers, ";"),
		r.Header.Get("X-Acs-Content-Sha256"),
	}, "\n")
}

func canonicalQuery(query url.Values) string {
	var pairs []string
	for _, k := range slices.Sorted(maps.Keys(query)) {
		for _, v := range query[k] {
			pairs = append(pairs, percentEncode(k)+"="+percentEncode(v))
		}
	}
	return strings.Join(pairs, "&")
}

func signACS3(toSign, secret string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(toSign))
	return hex.EncodeToString(mac.Sum(nil))
}

func hexSHA256(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
