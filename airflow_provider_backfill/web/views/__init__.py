"""What the page shows of all plans and of one plan; nothing here knows of Airflow or HTTP."""
