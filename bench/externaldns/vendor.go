package externaldns

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// vendorHost is the only place where the alibabacloud provider looks for PrivateZone.
const vendorHost = "pvtz.aliyuncs.com"

// A vendor is the site's cloud as who believes it to be the vendor's reaches it.
type vendor struct {
	certificate string // a file, to be trusted
	proxy       string // a URL: leads everything there
}

// pretend serves the cloud's API by TLS, behind a proxy that leads there whatever it is asked for.
func (s *site) pretend() (v vendor, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return v, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: vendorHost}, DNSNames: []string{vendorHost},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return v, err
	}
	v.certificate = filepath.Join(s.dir, "vendor.pem")
	if err := os.WriteFile(v.certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		return v, err
	}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return v, err
	}
	s.serve(tls.NewListener(inner, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}), s.cloud.Handler())
	outer, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return v, err
	}
	s.serve(outer, tunnel(inner.Addr().String()))
	v.proxy = "http://" + outer.Addr().String()
	return v, nil
}

// tunnel answers CONNECT (RFC 9110, 9.3.6) and leads to one address whatever was asked for.
func tunnel(to string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			http.Error(w, "only CONNECT", http.StatusMethodNotAllowed)
			return
		}
		far, err := new(net.Dialer).DialContext(r.Context(), "tcp", to)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer far.Close()
		near, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer near.Close()
		if _, err := io.WriteString(near, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
			return
		}
		go func() {
			_, _ = io.Copy(far, buffered)
			_ = far.(*net.TCPConn).CloseWrite() // it is a TCP connection
		}()
		_, _ = io.Copy(near, far)
	})
}
