// Lists a bucket twice with what aws-config's default chain finds, and says who it was.
use std::error::Error;
use std::time::{Duration, Instant};

use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::provider::ProvideCredentials;

// What Cargo.toml pins: the crate does not tell.
const SDK: &str = "aws-config/1.13.0";

async fn round(config: &SdkConfig, s3: &aws_sdk_s3::Client, sts: &aws_sdk_sts::Client) -> Result<String, Box<dyn Error>> {
    let start = Instant::now();
    // Asked past the cache, for the time it takes; the clients ask for themselves.
    config.credentials_provider().ok_or("no provider")?.provide_credentials().await?;
    let ms = start.elapsed().as_millis();
    let bucket = std::env::var("CONFORMANCE_BUCKET")?;
    let list = s3.list_objects_v2().bucket(bucket).send().await?;
    let key = list.contents().first().and_then(|o| o.key()).unwrap_or("").to_string();
    let who = sts.get_caller_identity().send().await?;
    Ok(format!("ms={ms} sdk={SDK} arn={} key={key}", who.arn().unwrap_or("")))
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let wait = std::env::var("CONFORMANCE_WAIT").ok().and_then(|w| w.parse().ok()).unwrap_or(0);
    let config = aws_config::load_defaults(BehaviorVersion::latest()).await;
    let s3 = aws_sdk_s3::Client::from_conf(aws_sdk_s3::config::Builder::from(&config).force_path_style(true).build());
    let sts = aws_sdk_sts::Client::new(&config);
    for n in 1..=2 {
        match round(&config, &s3, &sts).await {
            Ok(text) => println!("round={n} {text}"),
            Err(e) => {
                // The reason is at the end of the chain of sources.
                let mut text = e.to_string();
                let mut next = e.source();
                while let Some(s) = next {
                    text = format!("{text}: {s}");
                    next = s.source();
                }
                println!("round={n} error={}", text.replace('\n', " "));
            }
        }
        if n == 1 {
            if wait == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_secs(wait)).await;
        }
    }
}
