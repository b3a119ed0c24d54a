package agentapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
)

// ErrUnavailable says that no agent listens on the socket. Nothing was sent, so the request may be repeated.
// An agent that goes away in the middle of a request gives another error, because it may have acted on it.
var ErrUnavailable = errors.New("the nearpath agent is not running")

const (
	// maxBody bounds a request, and the answer to one of CNI, in bytes.
	maxBody = 1 << 20
	// maxAnswer bounds every other answer.
	maxAnswer = 1 << 30
)

// Paths of the API. Every other path is a verb that cmd registers.
const cniPath = "/v1/cni"

// A Client talks to the agent over its unix socket. It is safe for concurrent use.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient returns a client for the socket; empty means DefaultSocket. It does not connect.
func NewClient(socket string) *Client {
	if socket == "" {
		socket = DefaultSocket
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if absent(err) {
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		return conn, err
	}
	return &Client{
		socket: socket,
		http:   &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}},
	}
}

// CNI hands one CNI invocation to the agent. The error is about the transport; what the verb itself has to say
// is in the response.
func (c *Client) CNI(ctx context.Context, request CNIRequest) (CNIResponse, error) {
	var response CNIResponse
	if err := c.post(ctx, cniPath, request, maxBody, &response); err != nil {
		return CNIResponse{}, fmt.Errorf("ask agent at %s for CNI %s: %w", c.socket, request.Command, err)
	}
	return response, nil
}

// Post sends a request to one of the paths registered with Serve and decodes the JSON answer into out.
func (c *Client) Post(ctx context.Context, path string, request, out any) error {
	if err := c.post(ctx, path, request, maxAnswer, out); err != nil {
		return fmt.Errorf("ask %s for %s: %w", c.socket, path, err)
	}
	return nil
}

func (c *Client) post(ctx context.Context, path string, request any, limit int64, out any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://agent"+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	r.Header.Set("Content-Type", "application/json")
	return c.do(r, limit, out)
}

// Get asks for one of the paths registered with Server.Handle and decodes the JSON answer into out.
func (c *Client) Get(ctx context.Context, path string, out any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent"+path, nil)
	if err != nil {
		return fmt.Errorf("make request for %s: %w", path, err)
	}
	if err := c.do(r, maxAnswer, out); err != nil {
		return fmt.Errorf("ask agent at %s for %s: %w", c.socket, path, err)
	}
	return nil
}

func (c *Client) do(r *http.Request, limit int64, out any) error {
	response, err := c.http.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body := io.LimitReader(response.Body, limit)
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(body, 4096)) // best effort: the status says that it failed
		return fmt.Errorf("%s: %s", response.Status, bytes.TrimSpace(text))
	}
	if err := json.NewDecoder(body).Decode(out); err != nil {
		return fmt.Errorf("decode answer: %w", err)
	}
	return nil
}
