package agentapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// shutdownGrace is how long running requests may take once the server is told to stop. A pod being wired gets the
// time to finish or to roll back.
const shutdownGrace = 5 * time.Second

// ServerConfig configures a Server.
type ServerConfig struct {
	// Socket is the path to listen on; empty means DefaultSocket. Its directory is made if absent.
	Socket string
	// CNI serves one CNI invocation. Its context ends when the client goes away. nil: there is no such path.
	CNI func(context.Context, CNIRequest) CNIResponse
	Log *slog.Logger
}

// A Server is the agent's side of the API, a Task. Handle must be called before Run.
type Server struct {
	socket string
	mux    *http.ServeMux
	log    *slog.Logger
	ready  chan struct{}
}

// NewServer returns a server that does not listen yet.
func NewServer(c ServerConfig) *Server {
	s := &Server{socket: c.Socket, mux: http.NewServeMux(), log: c.Log, ready: make(chan struct{})}
	if s.socket == "" {
		s.socket = DefaultSocket
	}
	if c.CNI != nil {
		Serve(s, cniPath, func(ctx context.Context, request CNIRequest) (any, error) { return c.CNI(ctx, request), nil })
	}
	return s
}

// Serve registers do for POST requests of the path, whose body is a T as JSON. What do returns is sent as JSON; its error
// becomes status 500 with the error's text. It must be called before Run.
func Serve[T any](s *Server, path string, do func(context.Context, T) (any, error)) {
	s.mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
		var request T
		if err := decodeStrict(http.MaxBytesReader(w, r.Body, maxBody), &request); err != nil {
			http.Error(w, "decode request: "+err.Error(), http.StatusBadRequest)
			return
		}
		s.answer(w, r, func(ctx context.Context) (any, error) { return do(ctx, request) })
	})
}

// Handle registers get for GET requests of the path, a pattern of http.ServeMux without the method. What get
// returns is sent as JSON; its error becomes status 500 with the error's text.
func (s *Server) Handle(path string, get func(context.Context) (any, error)) {
	s.mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) { s.answer(w, r, get) })
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request, get func(context.Context) (any, error)) {
	value, err := get(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	s.write(w, value)
}

// Run listens and serves until the context ends.
func (s *Server) Run(ctx context.Context) error {
	listener, err := listen(s.socket)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", s.socket, err)
	}
	server := &http.Server{
		Handler:           s.mux,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelError),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	close(s.ready)
	select {
	case err = <-served:
		err = fmt.Errorf("serve %s: %w", s.socket, err)
	case <-ctx.Done():
		err = s.stop(server)
		<-served
	}
	if removeErr := listener.remove(); removeErr != nil {
		err = errors.Join(err, fmt.Errorf("remove %s: %w", s.socket, removeErr))
	}
	return err
}

// Ready is closed when the socket accepts connections.
func (s *Server) Ready() <-chan struct{} { return s.ready }

func (s *Server) String() string { return "agent API on " + s.socket }

func (s *Server) stop(server *http.Server) error {
	grace, cancel := context.WithTimeout(context.Background(), shutdownGrace)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		s.log.Warn("requests cut off at shutdown", "err", err)
		return server.Close()
	}
	return nil
}

func (s *Server) write(w http.ResponseWriter, value any) {
	body, err := json.Marshal(value)
	if err != nil {
		http.Error(w, "encode answer: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if _, err := w.Write(body); err != nil {
		s.log.Debug("client went away", "err", err)
	}
}

// decodeStrict reads exactly one JSON value and refuses unknown fields.
func decodeStrict(r io.Reader, out any) error {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if err := d.Decode(out); err != nil {
		return err
	}
	if _, err := d.Token(); err == nil {
		return errors.New("more than one JSON value")
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// A socketListener is a unix listener that remembers its file, so that it never removes a successor's.
type socketListener struct {
	*net.UnixListener
	path string
	file fs.FileInfo
}

// listen replaces a stale socket but not one that an agent answers on. The socket appears under its name only when it
// already has its mode and a listener, so no client sees it half made.
func listen(path string) (*socketListener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return nil, errors.New("another agent answers there")
	}
	temporary := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: temporary, Net: "unix"})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false)
	file, err := publish(temporary, path)
	if err != nil {
		return nil, errors.Join(err, listener.Close(), os.Remove(temporary))
	}
	return &socketListener{UnixListener: listener, path: path, file: file}, nil
}

func publish(temporary, path string) (fs.FileInfo, error) {
	if err := os.Chmod(temporary, 0o600); err != nil {
		return nil, err
	}
	file, err := os.Lstat(temporary)
	if err != nil {
		return nil, err
	}
	return file, os.Rename(temporary, path)
}

func (l *socketListener) remove() error {
	file, err := os.Lstat(l.path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(file, l.file) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Remove(l.path)
}

// absent reports whether a dial failed because nobody listens.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}
