package kube

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
)

// apiPort is where the apiserver listens.
const apiPort = 6443

// writeCredentials makes the one token that the harness, the controllers and the kubelets share, as an
// administrator's, and the key that the tokens of ServiceAccounts are signed with.
func (c *Cluster) writeCredentials() error {
	secret := make([]byte, 16)
	_, _ = rand.Read(secret) // never fails
	c.token = hex.EncodeToString(secret)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return fmt.Errorf("make ServiceAccount key: %w", err)
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	for name, content := range map[string]string{
		"sa.key":     string(block),
		"tokens.csv": c.token + ",admin,admin,system:masters\n",
		"admin.conf": c.kubeconfig(),
	} {
		if err := os.WriteFile(filepath.Join(c.dir, name), []byte(content), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// Kubeconfig is a file with an administrator's credentials, good wherever the control plane's address is reached: in
// its network namespace and on the nodes.
func (c *Cluster) Kubeconfig() string { return filepath.Join(c.dir, "admin.conf") }

// Token is the administrator's bearer token.
func (c *Cluster) Token() string { return c.token }

// APIAddress is the host and port of the API.
func (c *Cluster) APIAddress() string {
	return fmt.Sprintf("%s:%d", c.cfg.ControlPlane.Addr, apiPort)
}

// CAFile is the certificate that the API's is verified with.
func (c *Cluster) CAFile() string { return filepath.Join(c.dir, "certs", "apiserver.crt") }

func (c *Cluster) kubeconfig() string {
	return fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: lab, cluster: {server: "https://%s", certificate-authority: %s}}]
users: [{name: admin, user: {token: %s}}]
contexts: [{name: admin, context: {cluster: lab, user: admin}}]
current-context: admin
`, c.APIAddress(), c.CAFile(), c.token)
}
