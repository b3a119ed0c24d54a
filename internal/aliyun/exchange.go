package aliyun

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// maxAnswer bounds an answer; 500 ENIs of 50 addresses are about 3 MB.
const maxAnswer = 16 << 20

// An exchange carries one request of the SDK and keeps the answer. It stands between the SDK and the shared transport:
// the SDK changes a *http.Transport under its hands, but leaves a type it does not know alone.
type exchange struct {
	ctx  context.Context // the SDK passes none on; an exchange lives for one call
	next http.RoundTripper

	sent   bool
	status int // zero until the whole answer is read
	body   []byte
}

// RoundTrip sends the one request of the exchange and reads the whole answer, so that no body outlives the context.
func (e *exchange) RoundTrip(req *http.Request) (*http.Response, error) {
	if e.sent { // it follows a redirect, but what is signed goes nowhere else
		return nil, errors.New("SDK sent a second request")
	}
	e.sent = true
	ctx, cancel := context.WithCancelCause(req.Context())
	defer cancel(nil)
	stop := context.AfterFunc(e.ctx, func() { cancel(context.Cause(e.ctx)) })
	defer stop()

	resp, err := e.next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if len(body) > maxAnswer {
		return nil, fmt.Errorf("answer is longer than %d bytes", maxAnswer)
	}
	e.status, e.body = resp.StatusCode, body
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}
