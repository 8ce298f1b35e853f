// AWS SDK for Go v2 behind the protocol of all clients here (see ../python/client.py).
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"os"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

type answer struct {
	OK          bool   `json:"ok"`
	ARN         string `json:"arn,omitempty"`
	Account     string `json:"account,omitempty"`
	AccessKeyID string `json:"access_key_id,omitempty"`
	Error       string `json:"error,omitempty"`
}

func fetch(ctx context.Context) (answer, error) {
	settings, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return answer{}, err
	}
	identity, err := sts.NewFromConfig(settings).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return answer{}, err
	}
	credentials, err := settings.Credentials.Retrieve(ctx)
	if err != nil {
		return answer{}, err
	}
	return answer{OK: true, ARN: *identity.Arn, Account: *identity.Account, AccessKeyID: credentials.AccessKeyID}, nil
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	answers := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		result, err := fetch(context.Background())
		if err != nil {
			result = answer{Error: err.Error()}
		}
		if answers.Encode(result) != nil {
			os.Exit(1)
		}
	}
}
